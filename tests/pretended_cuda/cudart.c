/* Stands in for CUDA's runtime: memory is the host's, kernels do nothing, and what crosses between both is counted. */

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

typedef struct { unsigned x, y, z; } dim3;
enum { OK, OUT_OF_MEMORY = 2 };
enum { TO_DEVICE = 1, TO_HOST = 2 };

static struct { long launches, to_device, to_host, held, peak, captures, replays, refused, locked; } counts;
static int capturing;

void pretended_counts(long *found) { memcpy(found, &counts, sizeof counts); }
void pretended_reset(void) {
    long held = counts.held;
    memset(&counts, 0, sizeof counts);
    counts.held = counts.peak = held;
}

/* -------------------------------------------------------------------------------------------------- the device */

struct properties { /* the first of cudaDeviceProp, which are the same in every version 13 */
    char name[256], uuid[16], luid[8];
    unsigned mask;
    size_t memory, shared_memory;
    int registers, warp;
    size_t pitch;
    int threads, block[3], grid[3];
    size_t constants;
    int major, minor;
    size_t alignment, pitch_alignment;
    int processors;
};

int cudaGetDeviceProperties(struct properties *found, int device) {
    memset(found, 0, sizeof *found);
    strcpy(found->name, "pretended");
    found->memory = 64ul << 30, found->shared_memory = 48 << 10, found->registers = 1 << 16, found->warp = 32;
    found->threads = found->block[0] = found->block[1] = 1024, found->block[2] = 64;
    found->grid[0] = 0x7fffffff, found->grid[1] = found->grid[2] = 0xffff;
    found->major = 9, found->processors = 132;
    return OK;
}

int cudaDeviceGetAttribute(int *found, int attribute, int device) {
    static const struct { int attribute, value; } known[] = {
        {1, 1024} /* threads of a block */, {16, 132} /* processors */, {39, 2048} /* threads of one */,
        {75, 9} /* compute capability */, {97, 227 << 10} /* shared memory of a block */};
    *found = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].attribute == attribute) *found = known[i].value;
    return OK;
}

int cudaGetDeviceCount(int *found) { *found = 1; return OK; }
int cudaGetDevice(int *found) { *found = 0; return OK; }
int cudaDriverGetVersion(int *found) { *found = 13000; return OK; }
int cudaRuntimeGetVersion(int *found) { *found = 13000; return OK; }

/* ------------------------------------------------------------------------------------------------------ memory */

int cudaMalloc(void **found, size_t size) {
    counts.refused += capturing; /* as all that waits for the device, while a stream is captured */
    *found = aligned_alloc(256, (size + 511) / 256 * 256);
    if (!*found) return OUT_OF_MEMORY;
    counts.held += malloc_usable_size(*found);
    if (counts.held > counts.peak) counts.peak = counts.held;
    return OK;
}
int cudaFree(void *memory) {
    if (memory) counts.held -= malloc_usable_size(memory);
    free(memory);
    return OK;
}
int cudaMallocHost(void **found, size_t size) { *found = malloc(size + 1); return *found ? OK : OUT_OF_MEMORY; }
int cudaHostAlloc(void **found, size_t size, unsigned flags) {
    counts.locked++;
    return cudaMallocHost(found, size);
}
int cudaFreeHost(void *memory) { free(memory); return OK; }
int cudaMallocFromPoolAsync(void **found, size_t size, void *pool, void *stream) { return cudaMalloc(found, size); }
int cudaFreeAsync(void *memory, void *stream) { return cudaFree(memory); }
int cudaMemPoolCreate(void **found, const void *properties) { *found = &counts; return OK; }
int cudaMemGetInfo(size_t *free_, size_t *all) { *free_ = *all = 64ul << 30; return OK; }

static int copy(void *to, const void *from, size_t size, int way) {
    counts.to_device += way == TO_DEVICE, counts.to_host += way == TO_HOST;
    memcpy(to, from, size);
    return OK;
}
int cudaMemcpy(void *to, const void *from, size_t size, int way) {
    counts.refused += capturing;
    return copy(to, from, size, way);
}
int cudaMemcpyAsync(void *to, const void *from, size_t size, int way, void *stream) {
    return copy(to, from, size, way);
}
int cudaMemset(void *memory, int value, size_t size) { memset(memory, value, size); return OK; }
int cudaMemsetAsync(void *memory, int value, size_t size, void *stream) { return cudaMemset(memory, value, size); }
int cudaPointerGetAttributes(int *type, const void *memory) { *type = 2; return OK; }

/* ----------------------------------------------------------------------------------------- streams and kernels */

static char handle[16];

int cudaStreamCreate(void **found) { *found = handle; return OK; }
int cudaStreamCreateWithFlags(void **found, unsigned flags) { *found = handle; return OK; }
int cudaEventCreate(void **found) { *found = handle; return OK; }
int cudaEventCreateWithFlags(void **found, unsigned flags) { *found = handle; return OK; }
int cudaStreamIsCapturing(void *stream, int *found) { *found = 0; return OK; }

int cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared, void *stream) {
    counts.launches++;
    return OK;
}
int __cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared, void *stream) {
    return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}
int __cudaGetKernel(const void **found, const void *kernel) { *found = kernel; return OK; }
void **__cudaRegisterFatBinary(void *binary) { static void *found[4]; return found; }

static __thread struct { dim3 grid, block; size_t shared; void *stream; } launch;
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void *stream) {
    launch.grid = grid, launch.block = block, launch.shared = shared, launch.stream = stream;
    return OK;
}
int __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void **stream) {
    *grid = launch.grid, *block = launch.block, *shared = launch.shared, *stream = launch.stream;
    return OK;
}

int cudaStreamBeginCapture(void *stream, int mode) { capturing = 1; return OK; }
int cudaStreamEndCapture(void *stream, void **found) {
    capturing = 0, counts.captures++, *found = handle;
    return OK;
}
int cudaGraphInstantiate(void **found, void *graph, unsigned long long flags) { *found = handle; return OK; }
int cudaGraphLaunch(void *graph, void *stream) { counts.replays++; return OK; }

const char *cudaGetErrorName(int error) { return "pretended"; }
const char *cudaGetErrorString(int error) { return "pretended"; }
