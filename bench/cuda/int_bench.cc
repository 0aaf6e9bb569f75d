// Experts of the integer path: the layer of an 8x7B model, in groups of 128 and other formats.
#include <random>

#include "bench/cuda/bench.h"
#include "bench/cuda/layer.h"

namespace octet::cuda {
namespace {

using test::Api;
using test::DeviceArray;
using test::Ok;

void BenchFormat(const char* name, const std::vector<uint32_t>& tokens, double copy_bandwidth) {
  const LayerShape shape;
  const IntLayer layer(shape, *WeightFormatFromName(name));
  for (const uint32_t t : tokens) {
    const Routed routed(shape, t, 7);
    const IntRows rows(layer, t, 3);
    const DeviceArray<uint8_t> scratch(
        Api().moe_scratch_bytes(layer.shape_of(), shape.experts, routed.entries()));
    const DeviceArray<float> y(size_t{routed.entries()} * shape.hidden);
    const double ms = MedianMs([&](int) {
      Ok(Api().moe_ffn(nullptr, layer.shape_of(), layer.table(), routed.groups(), rows.q(),
                       rows.scales(), scratch.data(), y.data()));
    });
    const double bytes = static_cast<double>(layer.bytes()) * routed.active() / shape.experts;
    const double ops = 6.0 * routed.entries() * shape.hidden * shape.middle;
    const std::string label = std::string("experts ") + name + " " + std::to_string(t) + " tokens";
    Report(label, ms, "ms", bytes / (ms * 1e-3) / copy_bandwidth);
    Report(label + " rate", ops / (ms * 1e-3) / 1e12, "Top/s", 0);
  }
}

}  // namespace

void BenchInt4(double copy_bandwidth) { BenchFormat("int4g128", {16, 4096}, copy_bandwidth); }

void BenchIntExperts(double copy_bandwidth) {
  BenchFormat("int4g128", {1, 4, 16, 32, 64, 128, 512, 4096}, copy_bandwidth);
  BenchFormat("q4_0", {1, 16, 64, 4096}, copy_bandwidth);
  BenchFormat("int8g128", {1, 16, 64, 4096}, copy_bandwidth);
  BenchFormat("w4xg128", {1, 16, 64, 4096}, copy_bandwidth);
}

}  // namespace octet::cuda
