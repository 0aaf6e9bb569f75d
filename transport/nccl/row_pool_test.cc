#include "transport/nccl/row_pool.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/nccl_limits.h"
#include "transport/nccl/fake_nccl.h"

namespace octet {
namespace {

constexpr size_t kPiece = kNcclPoolBufferBytesMin;

class RowPoolTest : public ::testing::Test {
 protected:
  ~RowPoolTest() override {
    pool_.reset();
    EXPECT_EQ(api_.counts().allocations, 0);
    EXPECT_EQ(api_.counts().violations, 0);
  }
  FakeNccl api_;
  std::shared_ptr<RowPool> pool_ = RowPool::Create(&api_, 0, 4 * kPiece);
};

TEST_F(RowPoolTest, HostMemoryOnlyWhereItIsWanted) {
  const auto on_device = pool_->Take(1, RowPlace::kDevice).value();
  EXPECT_NE(on_device->device, nullptr);
  EXPECT_EQ(on_device->host, nullptr);
  EXPECT_EQ(on_device->place(), RowPlace::kDevice);
  const auto both = pool_->Take(kPiece + 1).value();
  EXPECT_NE(both->host, nullptr);
  EXPECT_EQ(both->place(), RowPlace::kDeviceAndHost);
  EXPECT_EQ(both->bytes, 2 * kPiece);
}

TEST_F(RowPoolTest, GivesAgainWhatCameBackToItsPlaceAlone) {
  void* const first = pool_->Take(kPiece, RowPlace::kDevice).value()->device;
  const auto both = pool_->Take(kPiece).value();
  EXPECT_NE(both->device, first);
  EXPECT_EQ(pool_->Take(kPiece, RowPlace::kDevice).value()->device, first);
  EXPECT_EQ(api_.counts().allocations, 3);
}

TEST_F(RowPoolTest, OneBoundForBothPlaces) {
  const auto both = pool_->Take(2 * kPiece).value();
  auto on_device = pool_->Take(2 * kPiece, RowPlace::kDevice).value();
  for (const RowPlace place : {RowPlace::kDevice, RowPlace::kDeviceAndHost}) {
    EXPECT_TRUE(absl::IsResourceExhausted(pool_->Take(kPiece, place).status()));
  }
  // One that is idle and larger serves, in its place.
  on_device.reset();
  EXPECT_TRUE(absl::IsResourceExhausted(pool_->Take(kPiece).status()));
  EXPECT_EQ(pool_->Take(kPiece, RowPlace::kDevice).value()->bytes, 2 * kPiece);
}

TEST_F(RowPoolTest, WhatIsReservedNeedsNoAllocation) {
  ASSERT_TRUE(pool_->Reserve(kPiece, 3, RowPlace::kDevice).ok());
  const int before = api_.counts().allocations;
  std::vector<RowPool::Lease> taken;
  for (int i = 0; i < 3; ++i) taken.push_back(pool_->Take(1, RowPlace::kDevice).value());
  EXPECT_EQ(api_.counts().allocations, before);
  EXPECT_TRUE(absl::IsResourceExhausted(pool_->Reserve(kPiece, 2)));
}

TEST_F(RowPoolTest, NoTransferIsThatLarge) {
  EXPECT_TRUE(absl::IsResourceExhausted(pool_->Take(kNcclTransferBytesMax + 1).status()));
}

}  // namespace
}  // namespace octet
