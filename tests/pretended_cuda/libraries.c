/* Stands in for cuBLAS, cuBLASLt and cuDNN: they give out handles, and compute nothing. */

#include <string.h>

static char handle[16];
static int give(void **found) { *found = handle; return 0; }

int cublasCreate_v2(void **found) { return give(found); }
int cublasLtCreate(void **found) { return give(found); }
const char *cublasGetStatusName(int status) { return "pretended"; }
const char *cublasGetStatusString(int status) { return "pretended"; }

int cudnnCreate(void **found) { return give(found); }
size_t cudnnGetVersion(void) { return 91300; }
const char *cudnnGetErrorString(int status) { return "pretended"; }
void cudnnGetLastErrorString(char *text, size_t size) { if (size) *text = 0; }
int cudnnCreateActivationDescriptor(void **found) { return give(found); }
int cudnnCreateConvolutionDescriptor(void **found) { return give(found); }
int cudnnCreateFilterDescriptor(void **found) { return give(found); }
int cudnnCreateLRNDescriptor(void **found) { return give(found); }
int cudnnCreatePoolingDescriptor(void **found) { return give(found); }
int cudnnCreateReduceTensorDescriptor(void **found) { return give(found); }
int cudnnCreateTensorDescriptor(void **found) { return give(found); }
int cudnnGetReductionWorkspaceSize(void *cudnn, void *how, void *from, void *to, size_t *found) { *found = 0; return 0; }

int cudnnBackendCreateDescriptor(int type, void **found) { return give(found); }
int cudnnBackendGetAttribute(void *of, int name, int type, long long most, long long *count, void *found) {
    enum { INT64 = 3, DOUBLE = 5, DESCRIPTOR = 15 };
    if (count) *count = 1;
    if (found && most > 0 && type != DESCRIPTOR) memset(found, 0, type == INT64 || type == DOUBLE ? 8 : 4);
    return 0;
}
