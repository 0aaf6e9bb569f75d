#include "expert_worker/expert_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "expert_worker/test_util.h"

namespace octet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ExpertStoreTest : public ::testing::Test {
 protected:
  ExpertStoreTest() {
    WorkerModel model = MakeTestModel();
    model.load = [this](ExpertId expert) -> absl::StatusOr<MappedExpert> {
      ++loads_;
      if (expert == damaged_) return absl::DataLossError("blobs/00: digest mismatch");
      MappedExpert mapped;
      mapped.layers.resize(2);
      mapped.bytes = 10;
      return mapped;
    };
    store_ = std::make_unique<ExpertStore>(std::move(model));
  }

  std::atomic<int> loads_{0};
  ExpertId damaged_{99};
  std::unique_ptr<ExpertStore> store_;
};

TEST_F(ExpertStoreTest, PreparesOnceAndReleasesAtActivate) {
  ASSERT_TRUE(store_->Prepare(Epoch(1), {ExpertId(0), ExpertId(1)}).ok());
  EXPECT_EQ(store_->prepared_epoch(), Epoch(1));
  EXPECT_EQ(store_->active_epoch(), Epoch(0));
  ASSERT_TRUE(store_->Activate(Epoch(1)).ok());
  ASSERT_TRUE(store_->Prepare(Epoch(2), {ExpertId(1), ExpertId(2)}).ok());
  EXPECT_EQ(loads_, 3);
  // Between prepare and activate it serves both epochs.
  EXPECT_THAT(store_->Held(), ElementsAre(ExpertId(0), ExpertId(1), ExpertId(2)));
  EXPECT_EQ(store_->mapped_bytes(), 30u);
  ASSERT_TRUE(store_->Activate(Epoch(2)).ok());
  EXPECT_THAT(store_->Held(), ElementsAre(ExpertId(1), ExpertId(2)));
  EXPECT_EQ(store_->active_epoch(), Epoch(2));
}

TEST_F(ExpertStoreTest, EpochsNeverGoBack) {
  ASSERT_TRUE(store_->Prepare(Epoch(5), {ExpertId(0)}).ok());
  ASSERT_TRUE(store_->Activate(Epoch(5)).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(store_->Prepare(Epoch(4), {ExpertId(1)})));
  EXPECT_TRUE(absl::IsFailedPrecondition(store_->Activate(Epoch(4))));
  EXPECT_TRUE(absl::IsFailedPrecondition(store_->Activate(Epoch(6))));  // not prepared
  EXPECT_THAT(store_->Held(), ElementsAre(ExpertId(0)));
  EXPECT_TRUE(store_->Activate(Epoch(5)).ok());  // the same again is harmless
}

TEST_F(ExpertStoreTest, DamagedWeightsAreNeverServed) {
  damaged_ = ExpertId(2);
  const absl::Status status = store_->Prepare(Epoch(1), {ExpertId(1), ExpertId(2)});
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("blobs/00"));
  EXPECT_THAT(store_->Held(), IsEmpty());
  EXPECT_EQ(store_->prepared_epoch(), Epoch(0));
}

TEST_F(ExpertStoreTest, UnknownExpertsAreRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(store_->Prepare(Epoch(1), {ExpertId(4)})));
  EXPECT_EQ(loads_, 0);
}

TEST_F(ExpertStoreTest, AbortReleasesWhatOnlyThatEpochNeeded) {
  ASSERT_TRUE(store_->Prepare(Epoch(1), {ExpertId(0)}).ok());
  ASSERT_TRUE(store_->Activate(Epoch(1)).ok());
  ASSERT_TRUE(store_->Prepare(Epoch(2), {ExpertId(0), ExpertId(1)}).ok());
  store_->Abort(Epoch(2));
  EXPECT_THAT(store_->Held(), ElementsAre(ExpertId(0)));
  EXPECT_TRUE(absl::IsFailedPrecondition(store_->Activate(Epoch(2))));
  store_->Abort(Epoch(1));  // active: stays
  EXPECT_THAT(store_->Held(), ElementsAre(ExpertId(0)));
}

TEST_F(ExpertStoreTest, HoldsAsksForDigestLayerAndExpert) {
  ASSERT_TRUE(store_->Prepare(Epoch(1), {ExpertId(1)}).ok());
  EXPECT_TRUE(store_->Holds(TestDigest(), LayerId(1), ExpertId(1)));
  EXPECT_FALSE(store_->Holds(std::string(64, 'b'), LayerId(1), ExpertId(1)));
  EXPECT_FALSE(store_->Holds(TestDigest(), LayerId(2), ExpertId(1)));
  EXPECT_FALSE(store_->Holds(TestDigest(), LayerId(1), ExpertId(0)));
}

TEST_F(ExpertStoreTest, ARunningKernelKeepsItsMapping) {
  ASSERT_TRUE(store_->Prepare(Epoch(1), {ExpertId(1)}).ok());
  ASSERT_TRUE(store_->Activate(Epoch(1)).ok());
  std::weak_ptr<const MappedExpert> watch;
  {
    const auto in_use = store_->Find(ExpertId(1));
    watch = in_use;
    ASSERT_TRUE(store_->Prepare(Epoch(2), {}).ok());
    ASSERT_TRUE(store_->Activate(Epoch(2)).ok());
    EXPECT_EQ(store_->Find(ExpertId(1)), nullptr);
    EXPECT_EQ(in_use->layers.size(), 2u);
  }
  EXPECT_TRUE(watch.expired());
}

TEST_F(ExpertStoreTest, LookupsDuringChangesAreSafe) {
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    while (!stop) {
      const auto expert = store_->Find(ExpertId(1));
      if (expert != nullptr) {
        EXPECT_EQ(expert->layers.size(), 2u);
      }
    }
  });
  for (uint64_t e = 1; e <= 200; ++e) {
    ASSERT_TRUE(store_->Prepare(Epoch(e), {ExpertId(e % 4), ExpertId((e + 1) % 4)}).ok());
    ASSERT_TRUE(store_->Activate(Epoch(e)).ok());
    EXPECT_EQ(store_->Held().size(), 2u);
  }
  stop = true;
  reader.join();
}

}  // namespace
}  // namespace octet
