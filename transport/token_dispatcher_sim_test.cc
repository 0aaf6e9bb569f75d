// Ten thousand seeded histories of failures, delays, hangs and new placements, on one thread.
#include <gtest/gtest.h>

#include <random>

#include "core/log.h"
#include "transport/fake_world.h"
#include "transport/token_dispatcher.h"

namespace octet {
namespace {

constexpr Duration kTrouble = Duration::Millis(2'000);
constexpr Duration kPatience = Duration::Millis(60'000);

class History {
 public:
  explicit History(uint64_t seed) : rng_(seed) {
    workers_ = 1 + Below(5);
    experts_ = 1 + Below(6);
    calm_ = world_.clock.Now() + kTrouble;
    world_.behave = [this](WorkerId, const ExpertDispatch&) { return Behave(); };
    DispatcherOptions options = world_.options();
    options.hedge.unknown = Duration::Millis(60);
    dispatcher_ = std::make_unique<TokenDispatcher>(options, world_.links(), &world_.clock);
    if (Below(8) != 0) Replace();
    ScheduleTrouble();
  }

  void Run() {
    const int layers = 1 + static_cast<int>(Below(4));
    for (int layer = 0; layer < layers; ++layer) RunLayer(LayerId(static_cast<uint32_t>(layer)));
    EXPECT_EQ(world_.replies_under_way(), 0u);
  }

 private:
  uint64_t Below(uint64_t n) { return rng_() % n; }
  bool calm() const { return world_.clock.Now() >= calm_; }

  FakeWorld::Behaviour Behave() {
    FakeWorld::Behaviour b;
    b.delay = Duration::Micros(static_cast<int64_t>(Below(5'000)));
    if (calm()) return b;
    static const absl::Status kRefusals[] = {
        absl::UnavailableError("broke"),         absl::NotFoundError("not held"),
        absl::DataLossError("checksum"),         absl::ResourceExhaustedError("full"),
        absl::FailedPreconditionError("digest"), absl::InvalidArgumentError("malformed")};
    switch (Below(10)) {
      case 0:
      case 1:
        b.status = kRefusals[Below(6)];
        break;
      case 2:
        // A stopped process: a connected stream loses nothing, so it answers when it goes on.
        b.delay.ns += (calm_ - world_.clock.Now()).ns;
        break;
      case 3:
        b.wrong_size = true;
        break;
      case 4:
        b.delay = Duration::Millis(static_cast<int64_t>(Below(400)));
        break;
      default:
        break;
    }
    return b;
  }

  // A newer placement; complete once trouble is over.
  void Replace() {
    std::vector<std::vector<uint64_t>> replicas(experts_);
    for (auto& list : replicas) {
      for (uint64_t w = 1; w <= workers_; ++w) {
        if (Below(2) == 0) list.push_back(w);
      }
      if (calm() && list.empty()) list.push_back(1 + Below(workers_));
    }
    dispatcher_->SetPlacement(FakePlacement(++epoch_, workers_, std::move(replicas)));
  }

  void ScheduleTrouble() {
    for (uint64_t i = 0; i < 3 + Below(6); ++i) {
      const MonotonicTime when{static_cast<int64_t>(Below(static_cast<uint64_t>(kTrouble.ns)))};
      const WorkerId worker(1 + Below(workers_));
      switch (Below(3)) {
        case 0:
          world_.At(when, [this] { Replace(); });
          break;
        case 1:
          world_.At(when, [this, worker] { world_.SetUp(worker, false); });
          break;
        default:
          world_.At(when, [this, worker] { world_.SetUp(worker, true); });
      }
    }
    world_.At(calm_, [this] {
      for (uint64_t w = 1; w <= workers_; ++w) world_.SetUp(WorkerId(w), true);
      Replace();
    });
  }

  std::vector<uint32_t> Choose(size_t rows, size_t k) {
    std::vector<uint32_t> chosen;
    for (size_t r = 0; r < rows; ++r) {
      const auto first = static_cast<uint32_t>(Below(experts_));
      for (uint32_t s = 0; s < k; ++s) {
        chosen.push_back((first + s) % static_cast<uint32_t>(experts_));
      }
    }
    return chosen;
  }

  void RunLayer(LayerId layer) {
    const size_t k = 1 + Below(std::min<uint64_t>(experts_, 3));
    const size_t rows = 1 + Below(6);
    FakeStep one(rows, k, Choose(rows, k));
    FakeStep two(rows, k, Choose(rows, k));
    const bool both = Below(2) == 0;
    const bool impatient = Below(5) == 0;
    const MonotonicTime give_up =
        world_.clock.Now() +
        (impatient ? Duration::Millis(static_cast<int64_t>(Below(200))) : kPatience);
    auto a = dispatcher_->Dispatch(StepId(1), 0, layer, false, one.rows, one.choice);
    std::unique_ptr<DispatchHandle> b;
    if (both) b = dispatcher_->Dispatch(StepId(1), 1, layer, true, two.rows, two.choice);
    Check(*a, one, layer, give_up, impatient);
    if (b != nullptr && Below(4) != 0) Check(*b, two, layer, give_up, impatient);
  }

  void Check(DispatchHandle& handle, const FakeStep& step, LayerId layer, MonotonicTime give_up,
             bool impatient) {
    std::vector<const float*> replies;
    const absl::Status status = dispatcher_->Combine(handle, give_up, &replies);
    if (status.ok()) {
      EXPECT_TRUE(step.Fits(layer, replies));
    } else {
      EXPECT_TRUE(absl::IsUnavailable(status)) << status;
      EXPECT_GE(world_.clock.Now(), give_up);
      EXPECT_TRUE(impatient) << "no progress although every worker is well: " << status;
    }
  }

  std::mt19937_64 rng_;
  uint64_t workers_ = 0;
  uint64_t experts_ = 0;
  uint64_t epoch_ = 0;
  MonotonicTime calm_;
  FakeWorld world_;
  std::unique_ptr<TokenDispatcher> dispatcher_;
};

TEST(TokenDispatcherSim, TenThousandHistoriesEndRight) {
  SetLogLevel(LogLevel::kError);
  for (uint64_t seed = 1; seed <= 10'000; ++seed) {
    SCOPED_TRACE(seed);
    History(seed).Run();
    if (::testing::Test::HasFailure()) break;
  }
}

}  // namespace
}  // namespace octet
