#include "expert_worker/cuda_worker.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace octet
