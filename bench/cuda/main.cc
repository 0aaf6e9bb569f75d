// octet_cuda_bench [int|bf16|attention|rows|step ...]: figures of the device's kernels, each beside
// the bandwidth of a large copy measured first. One JSON object a line; docs/gpu.md has the table.
#include <cstdio>
#include <cstring>

#include "bench/cuda/bench.h"

namespace octet::cuda {

double CopyBandwidth() {
  constexpr size_t kBytes = size_t{4} << 30;
  const test::DeviceArray<uint8_t> from(kBytes), to(kBytes);
  const double ms = MedianMs(
      [&](int) { test::Ok(test::Api().copy(nullptr, to.data(), from.data(), kBytes)); }, 3, 5);
  return 2.0 * kBytes / (ms * 1e-3);
}

int BenchMain(int argc, char** argv) {
  const auto api = octet::OpenCudaApi();
  if (!api.ok()) {
    std::printf("not run: %s\n", api.status().ToString().c_str());
    return 77;
  }
  DeviceProperties properties;
  test::Ok((*api)->device_properties(0, &properties));
  std::printf("{\"device\": \"%s\", \"multiprocessors\": %d, \"memory_gib\": %.1f}\n",
              properties.name, properties.multiprocessors,
              static_cast<double>(properties.memory_bytes) / (1 << 30));
  const auto wanted = [&](const char* name) {
    if (argc == 1) return true;
    for (int i = 1; i < argc; ++i) {
      if (std::strcmp(argv[i], name) == 0) return true;
    }
    return false;
  };
  const double copy = CopyBandwidth();
  Report("copy, read and written", copy / 1e12, "TB/s", 1);
  if (wanted("int")) BenchIntExperts(copy);
  if (argc > 1 && wanted("int4only")) BenchInt4(copy);
  if (wanted("bf16")) BenchBf16Experts(copy);
  if (wanted("attention")) BenchAttention(copy);
  if (wanted("rows")) BenchRowKernels(copy);
  if (wanted("step")) BenchStep(copy);
  if (argc > 1 && wanted("step1")) BenchSingleStep();
  return 0;
}

}  // namespace octet::cuda

int main(int argc, char** argv) { return octet::cuda::BenchMain(argc, argv); }
