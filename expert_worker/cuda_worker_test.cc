#include "expert_worker/cuda_worker.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "absl/strings/match.h"
#include "expert_worker/expert_ffn.h"
#include "expert_worker/test_util.h"
#include "kernels/cuda/test_util.h"
#include "kernels/test_util.h"

namespace octet {
namespace {

TEST(ComputeDeviceTest, TheCpuNeedsNoDevice) {
  const auto device = OpenComputeDevice("cpu", MakeTestModel());
  ASSERT_TRUE(device.ok());
  EXPECT_EQ(*device, nullptr);
}

TEST(ComputeDeviceTest, WithoutADeviceAutoIsTheCpuAndCudaSaysWhy) {
  if (OpenCudaApi().ok()) GTEST_SKIP() << "not run: a machine without a CUDA device";
  const auto device = OpenComputeDevice("auto", MakeTestModel());
  ASSERT_TRUE(device.ok());
  EXPECT_EQ(*device, nullptr);
  const absl::Status status = OpenComputeDevice("cuda", MakeTestModel()).status();
  EXPECT_EQ(status, OpenCudaApi().status());
}

TEST(ComputeDeviceTest, FloatExpertsStayOnTheCpu) {
  TestModelShape shape;
  shape.format = "bf16";
  WorkerModel model = MakeTestModel(shape);
  for (WireFormat& format : model.formats) format.activation_group = 0;
  const absl::Status status = OpenComputeDevice("cuda", model).status();
  EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "float experts"));
  const auto device = OpenComputeDevice("auto", model);
  ASSERT_TRUE(device.ok());
  EXPECT_EQ(*device, nullptr);
}

TEST(ComputeDeviceTest, RefusesOtherNames) {
  EXPECT_TRUE(absl::IsInvalidArgument(OpenComputeDevice("tpu", MakeTestModel()).status()));
}

// Several experts of a layer, rows of several inputs, in one call: the bits of the host.
TEST(CudaWorkerTest, ComputesTheHostsBits) {
  OCTET_NEEDS_CUDA();
  for (const char* format : {"int8g32", "int4g64", "w4xg32"}) {
    SCOPED_TRACE(format);
    TestModelShape shape;
    shape.format = format;
    WorkerModel host = MakeTestModel(shape);
    const auto device = OpenComputeDevice("cuda", host);
    ASSERT_TRUE(device.ok()) << device.status();
    WorkerModel placed = CudaWorkerModel(host, *device);
    const ComputeLayerFn compute = CudaCompute(*device);
    test::TestContext context(DetectCpuLevel(), 1);
    const WeightFormat weights = *WeightFormatFromName(format);
    for (const size_t rows : {1u, 9u, 100u}) {
      const std::vector<float> x = test::Normal(rows * shape.hidden, static_cast<uint32_t>(rows));
      ExpertInput input;
      input.q = AllocQuantizedRows(context.ctx, weights, rows, shape.hidden);
      QuantizeRows(context.ctx, {x.data(), rows, shape.hidden}, input.q);
      std::vector<uint32_t> indices;
      for (uint32_t r = 0; r < rows; ++r) indices.push_back(static_cast<uint32_t>(rows) - 1 - r);
      std::vector<MappedExpert> experts;
      std::vector<std::vector<float>> got(3, std::vector<float>(rows * shape.hidden));
      for (const uint32_t e : {0u, 2u, 3u}) experts.push_back(*placed.load(ExpertId(e)));
      std::vector<ComputePart> parts;
      for (size_t i = 0; i < 3; ++i) {
        parts.push_back({&experts[i], &input, indices, {got[i].data(), rows, shape.hidden}});
      }
      ASSERT_TRUE(compute(LayerId(1), parts).ok());
      for (size_t i = 0; i < 3; ++i) {
        const MappedExpert expert = *host.load(ExpertId(i == 0 ? 0 : static_cast<uint32_t>(i) + 1));
        std::vector<float> want(rows * shape.hidden);
        ASSERT_TRUE(RunExpert(context.ctx, expert, LayerId(1), input, indices,
                              {want.data(), rows, shape.hidden})
                        .ok());
        EXPECT_EQ(test::FirstDifference(got[i], want), want.size()) << "expert " << i;
      }
    }
  }
}

// Two inputs, each with its rows on the host and on the device, and two experts on both.
class RowsOnBothSides {
 public:
  static constexpr size_t kRows = 40;

  RowsOnBothSides(const TestModelShape& shape, const WorkerModel& host, const WorkerModel& placed)
      : hidden_(shape.hidden) {
    for (const uint32_t e : {0u, 2u}) {
      host_experts_.push_back(*host.load(ExpertId(e)));
      device_experts_.push_back(*placed.load(ExpertId(e)));
    }
    for (size_t i = 0; i < 2; ++i) {
      const std::vector<float> x = test::Normal(kRows * hidden_, static_cast<uint32_t>(i + 1));
      QuantizedRows& q = inputs_[i].q;
      q = AllocQuantizedRows(context_.ctx, *WeightFormatFromName(shape.format), kRows, hidden_);
      QuantizeRows(context_.ctx, {x.data(), kRows, hidden_}, q);
      q_[i] = cuda::test::DeviceArray<int8_t>(q.q, kRows * q.padded_k);
      scales_[i] = cuda::test::DeviceArray<float>(q.scales, kRows * q.padded_k / q.group);
      device_inputs_[i].q = q;
      device_inputs_[i].q.q = q_[i].data();
      device_inputs_[i].q.scales = scales_[i].data();
    }
  }
  const ExpertInput* input(size_t i, bool on_device) const {
    return &(on_device ? device_inputs_ : inputs_)[i];
  }
  const MappedExpert* expert(size_t e) const { return &device_experts_[e]; }
  std::vector<float> Expected(size_t e, size_t input, const std::vector<uint32_t>& rows) {
    std::vector<float> out(rows.size() * hidden_);
    EXPECT_TRUE(RunExpert(context_.ctx, host_experts_[e], LayerId(1), inputs_[input], rows,
                          {out.data(), rows.size(), hidden_, hidden_})
                    .ok());
    return out;
  }

 private:
  const size_t hidden_;
  test::TestContext context_{DetectCpuLevel(), 1};
  std::vector<MappedExpert> host_experts_, device_experts_;
  ExpertInput inputs_[2], device_inputs_[2];
  cuda::test::DeviceArray<int8_t> q_[2];
  cuda::test::DeviceArray<float> scales_[2];
};

// Rows that lie on the device, alone, of several inputs, and beside rows of the host.
TEST(CudaWorkerTest, RowsOnTheDeviceStayThere) {
  OCTET_NEEDS_CUDA();
  TestModelShape shape;
  shape.format = "int4g64";
  const WorkerModel host = MakeTestModel(shape);
  const auto device = OpenComputeDevice("cuda", host);
  ASSERT_TRUE(device.ok()) << device.status();
  RowsOnBothSides both(shape, host, CudaWorkerModel(host, *device));
  const ComputeLayerFn compute = CudaCompute(*device);
  const std::vector<uint32_t> rows[] = {{39, 0, 7}, {1, 2, 3, 4, 38}};
  struct Part {
    size_t expert, input, rows;
    bool on_device;
  };
  struct Case {
    std::vector<Part> parts;
    bool spread;  // results do not follow one another
  };
  const Case cases[] = {
      {{{0, 0, 0, true}}, false},
      {{{0, 0, 0, true}, {1, 0, 1, true}}, false},
      {{{0, 0, 0, true}, {1, 0, 1, true}}, true},
      {{{0, 0, 0, true}, {0, 1, 1, true}, {1, 1, 0, true}}, false},
      {{{0, 0, 1, true}, {0, 1, 0, false}, {1, 0, 1, false}, {1, 1, 1, true}}, true},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(&c - cases);
    const size_t most = 16 * shape.hidden;
    const cuda::test::DeviceArray<float> device_out(most * c.parts.size());
    std::vector<float> host_out(most * c.parts.size());
    std::vector<size_t> begins;
    std::vector<ComputePart> parts;
    size_t at = 0;
    for (const Part& part : c.parts) {
      const std::vector<uint32_t>& of = rows[part.rows];
      float* const out = (part.on_device ? device_out.data() : host_out.data()) + at;
      parts.push_back({both.expert(part.expert), both.input(part.input, part.on_device), of,
                       TensorF32(out, of.size(), shape.hidden, shape.hidden), part.on_device});
      begins.push_back(at);
      at += c.spread ? most : of.size() * shape.hidden;
    }
    ASSERT_TRUE(compute(LayerId(1), parts).ok());
    const std::vector<float> on_device = device_out.Get();
    for (size_t p = 0; p < parts.size(); ++p) {
      const Part& part = c.parts[p];
      const std::vector<float> want = both.Expected(part.expert, part.input, rows[part.rows]);
      const float* const from = (part.on_device ? on_device.data() : host_out.data()) + begins[p];
      const std::vector<float> got(from, from + want.size());
      EXPECT_EQ(test::FirstDifference(got, want), want.size()) << "part " << p;
    }
  }
}

TEST(ComputeDeviceTest, NumericsOfTensorCoresNeedADevice) {
  TestModelShape shape;
  shape.format = "bf16";
  WorkerModel model = MakeTestModel(shape);
  model.numerics = ExpertNumerics::kHopperBf16;
  const absl::Status cpu = OpenComputeDevice("cpu", model).status();
  EXPECT_TRUE(absl::IsInvalidArgument(cpu)) << cpu;
  EXPECT_TRUE(absl::StrContains(cpu.message(), "allowed are auto, cuda and cuda:N"));
  if (!OpenCudaApi().ok()) {
    EXPECT_EQ(OpenComputeDevice("auto", model).status(), OpenCudaApi().status());
  }
}

// Weights in bf16 by tensor cores: near the host's results, and a row's bits depend on nothing
// beside it, nor on where it lies.
TEST(CudaWorkerTest, TensorCoresGiveARowTheSameBitsInAnyCompany) {
  OCTET_NEEDS_CUDA();
  constexpr size_t kRows = 70;
  TestModelShape shape;
  shape.format = "bf16";
  shape.intermediate = 128;
  const WorkerModel host = MakeTestModel(shape);
  WorkerModel model = host;
  model.numerics = ExpertNumerics::kHopperBf16;
  const auto device = OpenComputeDevice("auto", model);
  ASSERT_TRUE(device.ok()) << device.status();
  const MappedExpert expert = *CudaWorkerModel(model, *device).load(ExpertId(1));
  const ComputeLayerFn compute = CudaCompute(*device);
  const std::vector<float> x = test::Normal(kRows * shape.hidden, 3);
  ExpertInput input, on_device;
  input.f32 = ConstTensorF32(x.data(), kRows, shape.hidden);
  const cuda::test::DeviceArray<float> device_x(x), device_out(kRows * shape.hidden);
  on_device.f32 = ConstTensorF32(device_x.data(), kRows, shape.hidden);
  std::vector<uint32_t> all(kRows);
  std::iota(all.begin(), all.end(), 0u);
  std::vector<float> together(kRows * shape.hidden), want(kRows * shape.hidden);
  ASSERT_TRUE(compute(LayerId(1),
                      {{{&expert, &input, all, TensorF32(together.data(), kRows, shape.hidden)}}})
                  .ok());
  ASSERT_TRUE(compute(LayerId(1), {{{&expert, &on_device, all,
                                     TensorF32(device_out.data(), kRows, shape.hidden), true}}})
                  .ok());
  EXPECT_EQ(test::FirstDifference(device_out.Get(), together), together.size());
  for (const uint32_t row : {0u, 31u, 69u}) {
    std::vector<float> alone(shape.hidden);
    const uint32_t rows[] = {row};
    ASSERT_TRUE(
        compute(LayerId(1), {{{&expert, &input, rows, TensorF32(alone.data(), 1, shape.hidden)}}})
            .ok());
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + row * shape.hidden));
  }
  test::TestContext context(DetectCpuLevel(), 1);
  ASSERT_TRUE(RunExpert(context.ctx, *host.load(ExpertId(1)), LayerId(1), input, all,
                        {want.data(), kRows, shape.hidden})
                  .ok());
  EXPECT_LT(test::RelativeError(together, want), 1e-2);
}

}  // namespace
}  // namespace octet
