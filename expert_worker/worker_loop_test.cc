#include "expert_worker/worker_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <string>
#include <thread>

#include "core/damaged.h"
#include "core/limits.h"
#include "core/mutex.h"
#include "expert_worker/job_queue.h"
#include "expert_worker/test_util.h"

namespace octet {
namespace {

using ::testing::ElementsAre;

constexpr uint32_t kHidden = 2;

std::shared_ptr<const MappedExpert> NewExpert() { return std::make_shared<const MappedExpert>(); }

// A job over rows whose first value names the row; its expected reply is twice that plus layer.
struct TestJob {
  TestJob(LayerId layer, bool prefill, std::vector<float> names,
          std::vector<std::pair<ExpertId, std::shared_ptr<const MappedExpert>>> experts) {
    for (const float name : names) x.insert(x.end(), {name, name + 0.5f});
    rows.resize(names.size());
    for (uint32_t i = 0; i < rows.size(); ++i) rows[i] = i;
    reply.resize(x.size() * experts.size());
    job.layer = layer;
    job.prefill = prefill;
    job.format.hidden = kHidden;
    job.input.f32 = ConstTensorF32(x.data(), names.size(), kHidden);
    job.bytes = x.size() * sizeof(float);
    size_t row = 0;
    for (const auto& entry : experts) {
      job.groups.push_back({entry.first, entry.second, rows, row});
      row += rows.size();
    }
    job.reply = reply.data();
    job.done = [this] {
      MutexLock lock(mu);
      ended = true;
      changed.NotifyAll();
    };
  }
  void Wait() {
    MutexLock lock(mu);
    while (!ended) changed.Wait(mu);
  }
  bool Right() const {
    for (size_t i = 0; i < reply.size(); ++i) {
      const float want = 2 * x[i % x.size()] + static_cast<float>(job.layer.value());
      if (reply[i] != want) return false;
    }
    return true;
  }

  std::vector<float> x;
  std::vector<uint32_t> rows;
  std::vector<float> reply;
  ExpertJob job;
  Mutex mu;
  CondVar changed;
  bool ended = false;
};

// Runs the loop with a kernel that can be held at its first call, so that a queue builds up.
class WorkerLoopTest : public ::testing::Test {
 protected:
  WorkerLoopTest()
      : load_(8),
        loop_([this](const MappedExpert&, LayerId layer, const ExpertInput& x,
                     absl::Span<const uint32_t> rows,
                     TensorF32 out) { return Compute(layer, x, rows, out); },
              &clock_, &load_) {}
  ~WorkerLoopTest() override { Release(); }

  absl::Status Compute(LayerId layer, const ExpertInput& x, absl::Span<const uint32_t> rows,
                       TensorF32 out) {
    std::vector<float> names;
    for (size_t i = 0; i < rows.size(); ++i) {
      const float* row = x.f32.row(rows[i]);
      names.push_back(row[0]);
      for (size_t c = 0; c < kHidden; ++c) {
        out.row(i)[c] = 2 * row[c] + static_cast<float>(layer.value());
      }
    }
    MutexLock lock(mu_);
    calls_.push_back(names);
    entered_ = true;
    changed_.NotifyAll();
    while (held_) changed_.Wait(mu_);
    return names[0] < 0 ? absl::DataLossError("bad weights") : absl::OkStatus();
  }
  // Occupies the compute thread until Release.
  void Hold() {
    {
      MutexLock lock(mu_);
      held_ = true;
      entered_ = false;
    }
    blocker_ = std::make_unique<TestJob>(
        LayerId(0), false, std::vector<float>{0},
        std::vector<std::pair<ExpertId, std::shared_ptr<const MappedExpert>>>{
            {ExpertId(7), NewExpert()}});
    ASSERT_TRUE(loop_.Submit(&blocker_->job).ok());
    MutexLock lock(mu_);
    while (!entered_) changed_.Wait(mu_);
    calls_.clear();
  }
  void Release() {
    MutexLock lock(mu_);
    held_ = false;
    changed_.NotifyAll();
  }

  ManualClock clock_;
  LoadCounter load_;
  Mutex mu_;
  CondVar changed_;
  bool held_ = false;
  bool entered_ = false;
  std::vector<std::vector<float>> calls_;  // names of the rows of each kernel call
  std::unique_ptr<TestJob> blocker_;
  const std::shared_ptr<const MappedExpert> a_ = NewExpert();
  const std::shared_ptr<const MappedExpert> b_ = NewExpert();
  WorkerLoop loop_;
};

TEST_F(WorkerLoopTest, RowsOfSeveralRoutersJoinOneCall) {
  Hold();
  TestJob one(LayerId(1), false, {1, 2}, {{ExpertId(0), a_}, {ExpertId(1), b_}});
  TestJob two(LayerId(1), false, {3}, {{ExpertId(0), a_}});
  TestJob other_layer(LayerId(2), false, {4}, {{ExpertId(0), a_}});
  for (TestJob* t : {&one, &two, &other_layer}) ASSERT_TRUE(loop_.Submit(&t->job).ok());
  Release();
  for (TestJob* t : {&one, &two, &other_layer}) {
    t->Wait();
    EXPECT_TRUE(t->job.status.ok());
    EXPECT_TRUE(t->Right());
  }
  EXPECT_THAT(calls_, ElementsAre(ElementsAre(1, 2, 3), ElementsAre(1, 2), ElementsAre(4)));
  EXPECT_EQ(load_.rows_per_expert()[0], 4u);
  EXPECT_EQ(load_.rows_per_expert()[1], 2u);
}

TEST_F(WorkerLoopTest, DecodeGoesBeforePrefill) {
  Hold();
  TestJob prefill(LayerId(0), true, {1}, {{ExpertId(0), a_}});
  TestJob decode(LayerId(0), false, {2}, {{ExpertId(1), b_}});
  ASSERT_TRUE(loop_.Submit(&prefill.job).ok());
  ASSERT_TRUE(loop_.Submit(&decode.job).ok());
  Release();
  prefill.Wait();
  decode.Wait();
  EXPECT_THAT(calls_, ElementsAre(ElementsAre(2), ElementsAre(1)));
}

TEST_F(WorkerLoopTest, AgedPrefillKeepsItsPlace) {
  Hold();
  TestJob prefill(LayerId(0), true, {1}, {{ExpertId(0), a_}});
  ASSERT_TRUE(loop_.Submit(&prefill.job).ok());
  clock_.Advance(JobQueue::kPrefillAge);
  TestJob decode(LayerId(0), false, {2}, {{ExpertId(1), b_}});
  ASSERT_TRUE(loop_.Submit(&decode.job).ok());
  Release();
  prefill.Wait();
  decode.Wait();
  EXPECT_THAT(calls_, ElementsAre(ElementsAre(1), ElementsAre(2)));
  EXPECT_EQ(prefill.job.queue_ns, static_cast<uint64_t>(JobQueue::kPrefillAge.ns));
}

TEST_F(WorkerLoopTest, PrefillRidesAlongWithDecodeOfTheSameExpert) {
  Hold();
  TestJob prefill(LayerId(0), true, {1}, {{ExpertId(0), a_}});
  TestJob decode(LayerId(0), false, {2}, {{ExpertId(0), a_}});
  ASSERT_TRUE(loop_.Submit(&prefill.job).ok());
  ASSERT_TRUE(loop_.Submit(&decode.job).ok());
  Release();
  prefill.Wait();
  decode.Wait();
  EXPECT_THAT(calls_, ElementsAre(ElementsAre(2, 1)));
  EXPECT_TRUE(prefill.Right());
  EXPECT_TRUE(decode.Right());
}

TEST_F(WorkerLoopTest, AFailedKernelFailsItsJobsAlone) {
  TestJob bad(LayerId(0), false, {-1}, {{ExpertId(0), a_}, {ExpertId(1), b_}});
  TestJob good(LayerId(0), false, {1}, {{ExpertId(1), b_}});
  ASSERT_TRUE(loop_.Submit(&bad.job).ok());
  bad.Wait();
  ASSERT_TRUE(loop_.Submit(&good.job).ok());
  good.Wait();
  EXPECT_TRUE(absl::IsDataLoss(bad.job.status));
  EXPECT_TRUE(good.job.status.ok());
  EXPECT_EQ(calls_.size(), 2u);  // the second group of the failed job was not computed
}

TEST_F(WorkerLoopTest, AbandonedJobsEndWithoutAKernel) {
  Hold();
  TestJob gone(LayerId(0), false, {1}, {{ExpertId(0), a_}});
  ASSERT_TRUE(loop_.Submit(&gone.job).ok());
  gone.job.abandoned = true;
  Release();
  gone.Wait();
  EXPECT_TRUE(calls_.empty());
}

TEST_F(WorkerLoopTest, TheQueueIsBounded) {
  Hold();
  TestJob large(LayerId(0), false, {1}, {{ExpertId(0), a_}});
  large.job.bytes = kWorkerQueuedBytesMax;
  EXPECT_TRUE(absl::IsResourceExhausted(loop_.Submit(&large.job)));
  std::deque<TestJob> many;
  while (loop_.queued() < kWorkerQueuedFramesMax) {
    many.emplace_back(
        LayerId(0), false, std::vector<float>{1},
        std::vector<std::pair<ExpertId, std::shared_ptr<const MappedExpert>>>{{ExpertId(0), a_}});
    ASSERT_TRUE(loop_.Submit(&many.back().job).ok());
  }
  TestJob extra(LayerId(0), false, {1}, {{ExpertId(0), a_}});
  EXPECT_TRUE(absl::IsResourceExhausted(loop_.Submit(&extra.job)));
  Release();
  for (TestJob& t : many) t.Wait();
}

// What a kernel made of damaged weights does not leave, even if it was on its way.
TEST_F(WorkerLoopTest, CondemnedItGivesNoResultAnyMore) {
  Hold();
  TestJob queued(LayerId(0), false, {1}, {{ExpertId(0), a_}});
  ASSERT_TRUE(loop_.Submit(&queued.job).ok());
  loop_.Condemn(DamagedError("bit rot"));
  TestJob late(LayerId(0), false, {2}, {{ExpertId(0), a_}});
  EXPECT_TRUE(IsDamaged(loop_.Submit(&late.job)));
  Release();
  queued.Wait();
  blocker_->Wait();
  EXPECT_TRUE(IsDamaged(queued.job.status));
  EXPECT_TRUE(IsDamaged(blocker_->job.status));
}

TEST_F(WorkerLoopTest, DrainRefusesNewJobsAndEndsTheAcceptedOnes) {
  Hold();
  TestJob accepted(LayerId(0), false, {1}, {{ExpertId(0), a_}});
  ASSERT_TRUE(loop_.Submit(&accepted.job).ok());
  EXPECT_FALSE(loop_.Drain(clock_.Now()));  // no time at all
  TestJob late(LayerId(0), false, {2}, {{ExpertId(0), a_}});
  EXPECT_TRUE(absl::IsUnavailable(loop_.Submit(&late.job)));
  Release();
  EXPECT_TRUE(loop_.Drain(clock_.Now() + Duration::Millis(60'000)));
  EXPECT_TRUE(accepted.Right());
}

TEST(WorkerLoopEnd, QueuedJobsAreCancelledAtTheEnd) {
  SystemClock clock;
  LoadCounter load(1);
  Mutex mu;
  CondVar changed;
  bool held = true;
  bool entered = false;
  auto loop = std::make_unique<WorkerLoop>(
      [&](const MappedExpert&, LayerId, const ExpertInput&, absl::Span<const uint32_t>, TensorF32) {
        MutexLock lock(mu);
        entered = true;
        changed.NotifyAll();
        while (held) changed.Wait(mu);
        return absl::OkStatus();
      },
      &clock, &load);
  const auto expert = NewExpert();
  TestJob running(LayerId(0), false, {1}, {{ExpertId(0), expert}});
  TestJob queued(LayerId(1), false, {1}, {{ExpertId(0), expert}});
  ASSERT_TRUE(loop->Submit(&running.job).ok());
  {
    MutexLock lock(mu);
    while (!entered) changed.Wait(mu);
  }
  ASSERT_TRUE(loop->Submit(&queued.job).ok());
  WorkerLoop* const raw = loop.get();  // lives while its kernel is held
  std::thread end([&] { loop.reset(); });
  // The destructor refuses jobs from its first moment on; until then they queue up.
  std::deque<TestJob> accepted;
  for (;;) {
    accepted.emplace_back(LayerId(2), false, std::vector<float>{1},
                          std::vector<std::pair<ExpertId, std::shared_ptr<const MappedExpert>>>{
                              {ExpertId(0), expert}});
    const absl::Status status = raw->Submit(&accepted.back().job);
    if (!status.ok()) accepted.pop_back();
    if (absl::IsUnavailable(status)) break;
    std::this_thread::yield();
  }
  {
    MutexLock lock(mu);
    held = false;
    changed.NotifyAll();
  }
  end.join();
  EXPECT_TRUE(running.job.status.ok());
  EXPECT_TRUE(absl::IsCancelled(queued.job.status));
  for (TestJob& t : accepted) EXPECT_TRUE(absl::IsCancelled(t.job.status));
}

TEST(JobQueue, OneCallTakesABoundedNumberOfRows) {
  JobQueue queue;
  const auto expert = NewExpert();
  std::deque<TestJob> jobs;
  for (int i = 0; i < 3; ++i) {
    jobs.emplace_back(LayerId(0), false, std::vector<float>(kDispatchRowsMax / 2 + 1),
                      std::vector<std::pair<ExpertId, std::shared_ptr<const MappedExpert>>>{
                          {ExpertId(0), expert}});
    queue.Add(&jobs.back().job);
  }
  for (int i = 0; i < 3; ++i) EXPECT_EQ(queue.Take(MonotonicTime{}).size(), 1u);
  EXPECT_TRUE(queue.empty());
  EXPECT_TRUE(queue.Take(MonotonicTime{}).empty());
}

// What a device gets in one call: a layer's groups, experts one after another.
TEST(JobQueueTest, ALayerIsTakenWhole) {
  const auto a = NewExpert(), b = NewExpert();
  TestJob one(LayerId(1), false, {1, 2}, {{ExpertId(0), a}, {ExpertId(1), b}});
  TestJob two(LayerId(1), true, {3}, {{ExpertId(1), b}, {ExpertId(0), a}});
  TestJob other(LayerId(2), false, {4}, {{ExpertId(0), a}});
  JobQueue queue;
  for (TestJob* t : {&one, &two, &other}) queue.Add(&t->job);
  const std::vector<QueuedGroup> taken = queue.TakeLayer(MonotonicTime{});
  ASSERT_EQ(taken.size(), 4u);
  const auto expert = [&](size_t i) { return taken[i].job->groups[taken[i].group].expert; };
  EXPECT_EQ(expert(0), ExpertId(0));
  EXPECT_EQ(expert(1), ExpertId(0));
  EXPECT_EQ(expert(2), ExpertId(1));
  EXPECT_EQ(expert(3), ExpertId(1));
  EXPECT_EQ(queue.TakeLayer(MonotonicTime{}).size(), 1u);
  EXPECT_TRUE(queue.empty());
}

TEST(JobQueueTest, ACallOfALayerKeepsItsBoundOnRows) {
  const std::vector<float> many(kDispatchRowsMax, 1.0f);
  const auto a = NewExpert(), b = NewExpert();
  TestJob one(LayerId(1), false, many, {{ExpertId(0), a}});
  TestJob two(LayerId(1), false, {2}, {{ExpertId(1), b}});
  JobQueue queue;
  for (TestJob* t : {&one, &two}) queue.Add(&t->job);
  EXPECT_EQ(queue.TakeLayer(MonotonicTime{}).size(), 1u);
  EXPECT_EQ(queue.TakeLayer(MonotonicTime{}).size(), 1u);
  EXPECT_TRUE(queue.empty());
}

TEST(WorkerLoopDeviceTest, ComputesTheExpertsOfALayerInOneCall) {
  SystemClock clock;
  LoadCounter load(8);
  WorkerLoop loop(ComputeLayerFn([](LayerId layer, absl::Span<const ComputePart> parts) {
                    for (const ComputePart& part : parts) {
                      for (size_t i = 0; i < part.rows.size(); ++i) {
                        const float* row = part.input->f32.row(part.rows[i]);
                        for (size_t c = 0; c < kHidden; ++c) {
                          part.out.row(i)[c] = 2 * row[c] + static_cast<float>(layer.value());
                        }
                      }
                    }
                    return absl::OkStatus();
                  }),
                  &clock, &load);
  TestJob job(LayerId(3), false, {1, 2}, {{ExpertId(0), NewExpert()}, {ExpertId(1), NewExpert()}});
  ASSERT_TRUE(loop.Submit(&job.job).ok());
  job.Wait();
  EXPECT_TRUE(job.job.status.ok());
  EXPECT_TRUE(job.Right());
  EXPECT_EQ(load.kernel_calls(), 1u);
  EXPECT_EQ(load.rows_per_expert()[0], 2u);
  EXPECT_EQ(load.rows_per_expert()[1], 2u);
}

}  // namespace
}  // namespace octet
