// The page's functions, called by tests/test_hosts.py, which puts them before this.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>

template <typename T> std::vector<T> read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
  return {reinterpret_cast<T*>(bytes.data()), reinterpret_cast<T*>(bytes.data() + bytes.size())};
}

int main(int, char** argv) {
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR);
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  if (argv[1][0] == 's') {  // single FILE PICTURE HEIGHT WIDTH THREADS TARGET REPEATS
    Ort::Session session(env, argv[2], options);
    auto picture = read<uint8_t>(argv[3]);
    Heatmap found;
    for (int n = 0; n < atoi(argv[8]); ++n) {
      auto started = std::chrono::steady_clock::now();
      found = explain_on(atoi(argv[6]), session, picture, atoi(argv[4]), atoi(argv[5]), atoi(argv[7]));
      std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
      fprintf(stderr, "%.6f\n", seconds.count());
    }
    printf("%lld %lld %lld %.9g", (long long)found.rows, (long long)found.cols, (long long)found.target, found.base_score);
    for (float score : found.scores) printf(" %.9g", score);
    return 0;
  }
  // two BASE INCREMENTAL IMAGE HEIGHT WIDTH ORIGINS CONTENT PATCH SIZES CHANNELS
  Ort::Session base(env, argv[2], options), incremental(env, argv[3], options);
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto pixels = read<float>(argv[4]), content = read<float>(argv[8]);
  auto origins = read<int64_t>(argv[7]), sizes = read<int64_t>(argv[10]), channels = read<int64_t>(argv[11]);
  const int64_t shape[] = {1, 3, atoi(argv[5]), atoi(argv[6])};
  auto image = Ort::Value::CreateTensor<float>(memory, pixels.data(), pixels.size(), shape, 4);
  int64_t side = atoi(argv[9]);
  for (float value : infer(base, incremental, image, origins, content, {1, 3, side, side}, sizes, channels))
    printf(" %.9g", value);
}
