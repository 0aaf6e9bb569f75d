#include "expert_worker/placement_follower.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "expert_worker/test_util.h"

namespace octet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class PlacementFollowerTest : public ::testing::Test {
 protected:
  PlacementFollowerTest() : store_(MakeModel()), follower_(&store_, [this] { Changed(); }) {}

  WorkerModel MakeModel() {
    WorkerModel model = MakeTestModel();
    model.load = [this](ExpertId expert) -> absl::StatusOr<MappedExpert> {
      if (expert == damaged_) return absl::DataLossError("blobs/7: digest mismatch");
      return MappedExpert{};
    };
    return model;
  }
  void Changed() {
    MutexLock lock(mu_);
    ++carried_out_;
    changed_.NotifyAll();
  }
  // Follows one update and waits until it was carried out.
  void Follow(PlacementPhase phase, uint64_t epoch, uint64_t self,
              std::vector<std::vector<uint64_t>> replicas,
              const std::string& digest = TestDigest()) {
    auto placement = std::make_shared<Placement>();
    placement->epoch = Epoch(epoch);
    placement->compute_digest = digest;
    for (uint64_t w = 1; w <= 9; ++w) placement->workers.push_back({WorkerId(w), "h:1"});
    for (const auto& list : replicas) {
      auto& ids = placement->expert_replicas.emplace_back();
      for (const uint64_t w : list) ids.emplace_back(w);
    }
    const int before = carried_out_;
    follower_.Follow({MemberId(self), 1, phase, std::move(placement)});
    MutexLock lock(mu_);
    while (carried_out_ == before) changed_.Wait(mu_);
  }

  Mutex mu_;
  CondVar changed_;
  int carried_out_ = 0;
  ExpertId damaged_{99};
  ExpertStore store_;
  PlacementFollower follower_;
};

TEST_F(PlacementFollowerTest, PreparesThenServesThenReleases) {
  Follow(PlacementPhase::kPrepare, 1, 2, {{1, 2}, {2}, {1}, {1}});
  EXPECT_THAT(store_.Held(), ElementsAre(ExpertId(0), ExpertId(1)));
  EXPECT_FALSE(follower_.state().serving);
  Follow(PlacementPhase::kActivate, 1, 2, {{1, 2}, {2}, {1}, {1}});
  EXPECT_TRUE(follower_.state().serving);
  EXPECT_EQ(store_.active_epoch(), Epoch(1));
  Follow(PlacementPhase::kPrepare, 2, 2, {{1}, {2}, {2}, {1}});
  EXPECT_THAT(store_.Held(), ElementsAre(ExpertId(0), ExpertId(1), ExpertId(2)));
  Follow(PlacementPhase::kActivate, 2, 2, {{1}, {2}, {2}, {1}});
  EXPECT_THAT(store_.Held(), ElementsAre(ExpertId(1), ExpertId(2)));
}

TEST_F(PlacementFollowerTest, AnActivateWithoutItsPrepareLoadsFirst) {
  Follow(PlacementPhase::kActivate, 4, 1, {{1}, {}, {}, {1}});
  EXPECT_TRUE(follower_.state().serving);
  EXPECT_THAT(store_.Held(), ElementsAre(ExpertId(0), ExpertId(3)));
}

TEST_F(PlacementFollowerTest, ADisplacedWorkerReleasesAndDoesNotServe) {
  Follow(PlacementPhase::kActivate, 1, 1, {{1}, {1}, {1}, {1}});
  Follow(PlacementPhase::kActivate, 2, 1, {{2}, {2}, {2}, {2}});
  EXPECT_FALSE(follower_.state().serving);
  EXPECT_THAT(store_.Held(), IsEmpty());
  EXPECT_EQ(store_.active_epoch(), Epoch(2));
}

TEST_F(PlacementFollowerTest, UnderANewIdItKeepsWhatIsInMemory) {
  Follow(PlacementPhase::kActivate, 1, 1, {{1}, {1}, {1}, {1}});
  Follow(PlacementPhase::kActivate, 2, 5, {{2}, {2}, {2}, {2}});  // registered again as 5
  EXPECT_EQ(store_.Held().size(), 4u);
  Follow(PlacementPhase::kActivate, 3, 5, {{5}, {2}, {2}, {2}});
  EXPECT_THAT(store_.Held(), ElementsAre(ExpertId(0)));
  EXPECT_TRUE(follower_.state().serving);
}

TEST_F(PlacementFollowerTest, DamagedWeightsAreReportedAndTheOldEpochServesOn) {
  Follow(PlacementPhase::kActivate, 1, 1, {{1}, {}, {}, {}});
  damaged_ = ExpertId(2);
  Follow(PlacementPhase::kPrepare, 2, 1, {{}, {}, {1}, {}});
  EXPECT_THAT(follower_.state().prepare_error, HasSubstr("blobs/7"));
  EXPECT_EQ(follower_.state().prepare_error_epoch, Epoch(2));
  EXPECT_THAT(store_.Held(), ElementsAre(ExpertId(0)));
  EXPECT_TRUE(follower_.state().serving);
  Follow(PlacementPhase::kAbort, 2, 1, {{}, {}, {1}, {}});
  Follow(PlacementPhase::kPrepare, 3, 1, {{1}, {1}, {}, {}});
  EXPECT_EQ(follower_.state().prepare_error, "");
}

TEST_F(PlacementFollowerTest, AnotherModelsPlacementIsRefused) {
  Follow(PlacementPhase::kPrepare, 1, 1, {{1}, {1}, {1}, {1}}, std::string(64, 'b'));
  EXPECT_THAT(follower_.state().prepare_error, HasSubstr(std::string(64, 'b')));
  Follow(PlacementPhase::kActivate, 1, 1, {{1}, {1}, {1}, {1}}, std::string(64, 'b'));
  EXPECT_FALSE(follower_.state().serving);
  EXPECT_THAT(store_.Held(), IsEmpty());
}

}  // namespace
}  // namespace octet
