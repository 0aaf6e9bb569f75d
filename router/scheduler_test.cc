#include "router/scheduler.h"

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octet {
namespace {

SchedulerOptions Options(size_t blocks) {
  SchedulerOptions options;
  options.kv_blocks = blocks;
  options.running_max = 8;
  options.waiting_max = 100;
  options.step_tokens_max = 64;
  return options;
}

ScheduledRequest Request(uint64_t id, uint32_t prompt, uint32_t output) {
  ScheduledRequest request;
  request.id = RequestId(id);
  for (uint32_t i = 0; i < prompt; ++i) request.tokens.push_back(static_cast<TokenId>(id * 7 + i));
  request.prompt_tokens = prompt;
  request.tokens_max = prompt + output;
  return request;
}

// Stands for the model: the token after a history is a function of the history, computed from the
// "cache" that the rows have written, so that a wrong position, block or recomputation changes it.
class FakeModel {
 public:
  // Runs the batch and gives the next token of every sampled sequence.
  std::map<RequestId, TokenId> Run(const Batch& batch) {
    std::map<RequestId, TokenId> next;
    for (const BatchSequence& s : batch.sequences) {
      EXPECT_GE(s.block_count, KvBlocksFor(s.position_begin + s.rows));
      for (size_t i = 0; i < s.rows; ++i) {
        const uint32_t position = s.position_begin + static_cast<uint32_t>(i);
        EXPECT_EQ(batch.positions[s.row_begin + i], position);
        cache_[Slot(s, position)] = batch.tokens[s.row_begin + i];
      }
      if (!s.sample) continue;
      uint64_t hash = 1469598103934665603ull;
      for (uint32_t p = 0; p < s.position_begin + s.rows; ++p) {
        hash = (hash ^ static_cast<uint64_t>(cache_.at(Slot(s, p)))) * 1099511628211ull;
      }
      next[s.request] = static_cast<TokenId>(hash % 50000);
    }
    return next;
  }

 private:
  static uint64_t Slot(const BatchSequence& s, uint32_t position) {
    return uint64_t{s.blocks[position / kKvBlockPositions].value()} * kKvBlockPositions +
           position % kKvBlockPositions;
  }
  std::map<uint64_t, TokenId> cache_;
};

void CheckBatch(const Batch& batch, const SchedulerOptions& options) {
  EXPECT_LE(batch.rows(), options.step_tokens_max);
  EXPECT_LE(batch.sequences.size(), options.running_max);
  size_t row = 0;
  std::set<RequestId> requests;
  bool prefill_seen = false;
  for (const BatchSequence& s : batch.sequences) {
    EXPECT_EQ(s.row_begin, row);
    EXPECT_GE(s.rows, 1u);
    row += s.rows;
    EXPECT_TRUE(requests.insert(s.request).second) << "a request twice in one step";
    if (s.rows > 1) prefill_seen = true;
  }
  EXPECT_EQ(row, batch.rows());
  EXPECT_EQ(batch.prefill, prefill_seen);
  EXPECT_TRUE(std::is_sorted(batch.logit_rows.begin(), batch.logit_rows.end()));
}

// Runs requests to their ends; gives each one's output.
std::map<RequestId, std::vector<TokenId>> RunAll(Scheduler* scheduler,
                                                 const SchedulerOptions& options,
                                                 uint64_t* preemptions = nullptr) {
  FakeModel model;
  std::map<RequestId, std::vector<TokenId>> outputs;
  for (int step = 0; step < 100000; ++step) {
    const StepPlan& plan = scheduler->Plan({step});
    if (plan.batch.empty()) break;
    if (preemptions != nullptr) *preemptions += plan.preempted.size();
    CheckBatch(plan.batch, options);
    const auto next = model.Run(plan.batch);
    scheduler->CommitStep();
    for (const auto& [id, token] : next) {
      std::vector<TokenId>& output = outputs[id];
      output.push_back(token);
      const ScheduledRequest* request = scheduler->Find(id);
      if (request->prompt_tokens + output.size() == request->tokens_max) {
        scheduler->Remove(id);
      } else {
        scheduler->CommitToken(id, token);
      }
    }
  }
  EXPECT_EQ(scheduler->running(), 0u);
  EXPECT_EQ(scheduler->waiting(), 0u);
  EXPECT_EQ(scheduler->blocks_used(), 0u);
  return outputs;
}

// A request whose prompt begins like that of every other of its family, for `shared` tokens.
ScheduledRequest Relative(uint64_t id, uint64_t family, uint32_t shared, uint32_t prompt,
                          uint32_t output) {
  ScheduledRequest request = Request(id, prompt, output);
  const ScheduledRequest parent = Request(1000 + family, prompt, 0);
  std::copy_n(parent.tokens.begin(), std::min(shared, prompt), request.tokens.begin());
  return request;
}

TEST(SchedulerTest, RandomLoadsKeepTheBudgetEndAndGiveTheSameTokens) {
  uint64_t hits = 0;
  for (uint32_t seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    std::vector<ScheduledRequest> requests;
    const size_t count = 1 + random() % 30;
    for (size_t i = 0; i < count; ++i) {
      requests.push_back(
          Relative(i + 1, random() % 3, random() % 300, 1 + random() % 300, 1 + random() % 150));
      requests.back().resumed = random() % 4 == 0;
    }
    SchedulerOptions roomy = Options(2000);
    roomy.prefix_cache = false;
    Scheduler alone(roomy);
    for (const auto& r : requests) ASSERT_TRUE(alone.Submit(r).ok());
    const auto expected = RunAll(&alone, roomy);

    SchedulerOptions tight = Options(8 + random() % 12);
    tight.running_max = 1 + random() % 10;
    tight.step_tokens_max = tight.running_max + random() % 100;
    tight.chunk_tokens = random() % 2 == 0 ? 0 : 1 + random() % 70;
    tight.preempt_every_steps = random() % 3 == 0 ? 1 + random() % 5 : 0;
    tight.prefix_cache = random() % 4 != 0;
    Scheduler squeezed(tight);
    for (const auto& r : requests) ASSERT_TRUE(squeezed.Submit(r).ok());
    const auto actual = RunAll(&squeezed, tight);
    ASSERT_EQ(actual, expected) << "seed " << seed;
    ASSERT_EQ(actual.size(), count);
    const PrefixCacheStats& stats = squeezed.prefix_cache_stats();
    uint64_t prompt_tokens = 0;
    for (const auto& r : requests) prompt_tokens += r.prompt_tokens;
    ASSERT_EQ(stats.queries, tight.prefix_cache ? prompt_tokens : 0);
    hits += stats.hits;
  }
  EXPECT_GT(hits, 10000u);
}

TEST(SchedulerTest, AFullCachePreemptsTheYoungest) {
  // Two blocks each at the start, three at the end: four do not fit together.
  SchedulerOptions options = Options(9);
  Scheduler scheduler(options);
  for (uint64_t id = 1; id <= 4; ++id) ASSERT_TRUE(scheduler.Submit(Request(id, 100, 80)).ok());
  FakeModel model;
  std::vector<RequestId> preempted;
  for (int step = 0; preempted.empty() && step < 1000; ++step) {
    const StepPlan& plan = scheduler.Plan({});
    preempted = plan.preempted;
    const auto next = model.Run(plan.batch);
    scheduler.CommitStep();
    for (const auto& [id, token] : next) scheduler.CommitToken(id, token);
  }
  ASSERT_FALSE(preempted.empty());
  EXPECT_EQ(preempted[0], RequestId(4));
  EXPECT_EQ(scheduler.Find(RequestId(4))->preemptions, 1u);
  EXPECT_GT(scheduler.Find(RequestId(4))->tokens.size(), 100u) << "emitted tokens stay";
}

TEST(SchedulerTest, TheHookPreemptsAndEverythingStillEnds) {
  SchedulerOptions options = Options(100);
  options.preempt_every_steps = 1;
  options.chunk_tokens = 3;
  Scheduler scheduler(options);
  for (uint64_t id = 1; id <= 5; ++id) ASSERT_TRUE(scheduler.Submit(Request(id, 20, 10)).ok());
  uint64_t preemptions = 0;
  const auto outputs = RunAll(&scheduler, options, &preemptions);
  EXPECT_EQ(outputs.size(), 5u);
  EXPECT_GE(preemptions, 9u);
}

TEST(SchedulerTest, NobodyIsOvertakenInTheQueue) {
  SchedulerOptions options = Options(10);
  Scheduler scheduler(options);
  ASSERT_TRUE(scheduler.Submit(Request(1, 64 * 7, 64)).ok());
  ASSERT_TRUE(scheduler.Submit(Request(2, 64 * 7, 64)).ok());  // does not fit beside the first
  ASSERT_TRUE(scheduler.Submit(Request(3, 1, 1)).ok());        // would fit
  const StepPlan& plan = scheduler.Plan({});
  EXPECT_THAT(plan.admitted, testing::ElementsAre(RequestId(1)));
}

TEST(SchedulerTest, AnswersThatAnotherRouterBeganComeBeforePrefillAndTheQueue) {
  SchedulerOptions options = Options(100);
  options.running_max = 2;
  options.chunk_tokens = 32;
  Scheduler scheduler(options);
  ASSERT_TRUE(scheduler.Submit(Request(1, 1000, 4)).ok());
  ASSERT_TRUE(scheduler.Submit(Request(2, 1000, 4)).ok());
  scheduler.Plan({});
  scheduler.CommitStep();
  for (const uint64_t id : {3, 4, 5}) {
    ScheduledRequest resumed = Request(id, 20, 4);
    resumed.resumed = id != 3;
    ASSERT_TRUE(scheduler.Submit(resumed).ok());
  }
  const StepPlan& plan = scheduler.Plan({});
  // The first of them, then what ran before with the rest of the chunk; there is no place for the
  // second one, and none for the fresh requests that came before both.
  EXPECT_THAT(plan.admitted, testing::ElementsAre(RequestId(4)));
  ASSERT_EQ(plan.batch.sequences.size(), 2u);
  EXPECT_EQ(plan.batch.sequences[0].request, RequestId(4));
  EXPECT_EQ(plan.batch.sequences[0].rows, 20u);
  EXPECT_EQ(plan.batch.sequences[1].request, RequestId(1));
  EXPECT_EQ(plan.batch.sequences[1].rows, 12u);
  scheduler.CommitStep();
  scheduler.Remove(RequestId(1));
  EXPECT_THAT(scheduler.Plan({}).admitted, testing::ElementsAre(RequestId(5)));
}

TEST(SchedulerTest, DecodingGoesOnBesidePrefillAndComesFirst) {
  SchedulerOptions options = Options(100);
  options.chunk_tokens = 16;
  Scheduler scheduler(options);
  FakeModel model;
  ASSERT_TRUE(scheduler.Submit(Request(1, 4, 400)).ok());
  ASSERT_TRUE(scheduler.Submit(Request(2, 5, 400)).ok());
  const auto run = [&] {
    const StepPlan& plan = scheduler.Plan({});
    const auto next = model.Run(plan.batch);
    scheduler.CommitStep();
    for (const auto& [id, token] : next) scheduler.CommitToken(id, token);
    return plan;
  };
  run();
  ASSERT_TRUE(scheduler.Submit(Request(3, 1000, 4)).ok());
  for (int step = 0; step < 1000 / 16; ++step) {
    const StepPlan plan = run();
    ASSERT_EQ(plan.batch.sequences.size(), 3u);
    EXPECT_EQ(plan.batch.sequences[0].rows, 1u);
    EXPECT_EQ(plan.batch.sequences[1].rows, 1u);
    EXPECT_EQ(plan.batch.sequences[2].rows, 16u);
  }
}

TEST(SchedulerTest, ThePromptHasTheWholeStepWhenNobodyDecodes) {
  SchedulerOptions options = Options(100);
  Scheduler scheduler(options);
  ASSERT_TRUE(scheduler.Submit(Request(1, 1000, 4)).ok());
  EXPECT_EQ(scheduler.Plan({}).batch.rows(), options.step_tokens_max);
}

TEST(SchedulerTest, ChunksKeepTheGapsOfRunningRequestsUnderTheBoundAtAGoodRate) {
  // A machine in simulated time: a step costs 20 ms + 0.5 ms a row + attention, with 10 % noise.
  std::mt19937 random(5);
  std::uniform_real_distribution<double> noise(0.9, 1.1);
  const auto step_ms = [&](const StepShape& s) {
    return (20 + 0.5 * static_cast<double>(s.rows) + 4e-6 * s.attended) * noise(random);
  };
  SchedulerOptions options = Options(1000);
  options.running_max = 16;
  options.step_tokens_max = 512;
  options.itl_ms_max = 100;
  const auto prefill_ms_of = [&](bool loaded, std::vector<double>* gaps) {
    Scheduler scheduler(options);
    uint64_t id = 0;
    // A warm-up prompt, as any running request has had one.
    for (int i = 0; i < (loaded ? 8 : 1); ++i) {
      EXPECT_TRUE(scheduler.Submit(Request(++id, 300, loaded ? 4000 : 1)).ok());
    }
    double elapsed = 0;
    const auto run = [&]() -> std::vector<RequestId> {
      const StepPlan& plan = scheduler.Plan({});
      const double ms = step_ms(plan.shape);
      std::vector<RequestId> sampled;
      for (const auto& s : plan.batch.sequences) {
        if (s.sample) sampled.push_back(s.request);
      }
      scheduler.CommitStep();
      for (const RequestId r : sampled) {
        const ScheduledRequest* request = scheduler.Find(r);
        if (request->tokens.size() + 1 >= request->tokens_max) {
          scheduler.Remove(r);
        } else {
          scheduler.CommitToken(r, 1);
        }
      }
      scheduler.ObserveStep(ms);
      elapsed += ms;
      gaps->push_back(ms);
      return sampled;
    };
    for (int i = 0; i < 40; ++i) run();
    gaps->clear();
    elapsed = 0;
    const RequestId prompt(++id);
    EXPECT_TRUE(scheduler.Submit(Request(prompt.value(), 4000, 2)).ok());
    for (int i = 0; i < 2000; ++i) {
      const auto sampled = run();
      if (std::find(sampled.begin(), sampled.end(), prompt) != sampled.end()) return elapsed;
    }
    ADD_FAILURE() << "the prompt never ended";
    return elapsed;
  };
  std::vector<double> gaps, ignored;
  const double undisturbed = prefill_ms_of(false, &ignored);
  const double loaded = prefill_ms_of(true, &gaps);
  std::sort(gaps.begin(), gaps.end());
  EXPECT_LE(gaps[gaps.size() * 99 / 100], options.itl_ms_max);
  EXPECT_GE(undisturbed / loaded, 0.5) << undisturbed << " ms against " << loaded << " ms";
}

TEST(SchedulerTest, DeadlinesEndRequestsWhereverTheyAre) {
  SchedulerOptions options = Options(100);
  options.running_max = 1;
  Scheduler scheduler(options);
  ScheduledRequest running = Request(1, 4, 100), waiting = Request(2, 4, 100);
  running.deadline = {50};
  waiting.deadline = {20};
  ASSERT_TRUE(scheduler.Submit(running).ok());
  ASSERT_TRUE(scheduler.Submit(waiting).ok());
  EXPECT_TRUE(scheduler.Plan({19}).expired.empty());
  EXPECT_THAT(scheduler.Plan({20}).expired, testing::ElementsAre(RequestId(2)));
  const StepPlan& plan = scheduler.Plan({50});
  EXPECT_THAT(plan.expired, testing::ElementsAre(RequestId(1)));
  EXPECT_TRUE(plan.batch.empty());
  EXPECT_EQ(scheduler.blocks_used(), 0u);
}

TEST(SchedulerTest, BoundsAreRefusedAtOnce) {
  SchedulerOptions options = Options(4);
  options.waiting_max = 2;
  Scheduler scheduler(options);
  EXPECT_EQ(scheduler.Submit(Request(1, 64 * 4, 1)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(scheduler.Submit(Request(2, 1, 1)).ok());
  EXPECT_TRUE(scheduler.Submit(Request(3, 1, 1)).ok());
  EXPECT_EQ(scheduler.Submit(Request(4, 1, 1)).code(), absl::StatusCode::kResourceExhausted);
}

TEST(SchedulerTest, PromptLogitsAreAskedOnceEvenAfterAPreemption) {
  SchedulerOptions options = Options(100);
  options.chunk_tokens = 7;
  options.preempt_every_steps = 6;
  Scheduler scheduler(options);
  ScheduledRequest request = Request(1, 20, 30);
  request.prompt_logprobs = true;
  ASSERT_TRUE(scheduler.Submit(request).ok());
  std::multiset<uint32_t> asked;
  FakeModel model;
  for (int step = 0; step < 2000 && scheduler.Find(RequestId(1)) != nullptr; ++step) {
    const StepPlan& plan = scheduler.Plan({});
    for (const uint32_t row : plan.batch.logit_rows) asked.insert(plan.batch.positions[row]);
    const auto next = model.Run(plan.batch);
    scheduler.CommitStep();
    for (const auto& [id, token] : next) {
      if (scheduler.Find(id)->tokens.size() == 49) {
        scheduler.Remove(id);
      } else {
        scheduler.CommitToken(id, token);
      }
    }
  }
  for (uint32_t p = 0; p < 49; ++p) EXPECT_EQ(asked.count(p), 1u) << p;
}

// Runs the one request to its end; gives the rows that were computed for it.
size_t RunOne(Scheduler* scheduler, FakeModel* model, ScheduledRequest request,
              std::vector<TokenId>* tokens = nullptr, uint32_t* cached = nullptr) {
  const RequestId id = request.id;
  EXPECT_TRUE(scheduler->Submit(std::move(request)).ok());
  size_t rows = 0;
  while (scheduler->Find(id) != nullptr) {
    const StepPlan& plan = scheduler->Plan({});
    rows += plan.batch.rows();
    const auto next = model->Run(plan.batch);
    scheduler->CommitStep();
    const ScheduledRequest* running = scheduler->Find(id);
    if (cached != nullptr) *cached = running->cached_tokens;
    for (const auto& [sampled, token] : next) {
      if (tokens != nullptr) {
        *tokens = running->tokens;
        tokens->push_back(token);
      }
      if (running->tokens.size() + 1 == running->tokens_max) {
        scheduler->Remove(sampled);
        break;
      }
      scheduler->CommitToken(sampled, token);
    }
  }
  return rows;
}

ScheduledRequest With(uint64_t id, std::vector<TokenId> prompt, uint32_t output) {
  ScheduledRequest request = Request(id, 1, 0);
  request.prompt_tokens = static_cast<uint32_t>(prompt.size());
  request.tokens = std::move(prompt);
  request.tokens_max = request.prompt_tokens + output;
  return request;
}

TEST(PrefixCacheTest, ASecondTurnComputesOnlyWhatIsNew) {
  const SchedulerOptions options = Options(100);
  Scheduler scheduler(options);
  FakeModel model;
  std::vector<TokenId> turn;
  EXPECT_EQ(RunOne(&scheduler, &model, Request(1, 200, 60), &turn), 200u + 59);
  ASSERT_EQ(turn.size(), 260u);
  EXPECT_EQ(scheduler.blocks_used(), 0u);
  EXPECT_EQ(scheduler.blocks_idle(), 4u);  // 259 positions were computed
  for (TokenId t = 0; t < 30; ++t) turn.push_back(t);
  std::vector<TokenId> expected, actual;
  uint32_t cached = 0;
  Scheduler cold(options);
  RunOne(&cold, &model, With(2, turn, 5), &expected);
  EXPECT_EQ(RunOne(&scheduler, &model, With(2, turn, 5), &actual, &cached), 290u - 256 + 4);
  EXPECT_EQ(actual, expected);
  EXPECT_EQ(cached, 256u);
  EXPECT_EQ(scheduler.prefix_cache_stats().queries, 200u + 290);
  EXPECT_EQ(scheduler.prefix_cache_stats().hits, 256u);
}

TEST(PrefixCacheTest, APromptThatIsWhollyCachedStillComputesItsLastPosition) {
  Scheduler scheduler(Options(100));
  FakeModel model;
  RunOne(&scheduler, &model, Request(1, 129, 1));
  const std::vector<TokenId> tokens = Request(1, 129, 0).tokens;
  for (const uint32_t prompt : {128u, 129u}) {
    ASSERT_TRUE(scheduler.Submit(With(prompt, {tokens.begin(), tokens.begin() + prompt}, 4)).ok());
    const StepPlan& plan = scheduler.Plan({});
    ASSERT_EQ(plan.batch.sequences.size(), 1u);
    EXPECT_EQ(plan.batch.sequences[0].position_begin, prompt == 128 ? 64u : 128u);
    EXPECT_EQ(plan.batch.logit_rows.size(), 1u);
    scheduler.Remove(RequestId(prompt));
  }
}

TEST(PrefixCacheTest, PromptLogitsAreComputedWhateverIsCached) {
  Scheduler scheduler(Options(100));
  FakeModel model;
  RunOne(&scheduler, &model, Request(1, 300, 1));
  ScheduledRequest again = With(2, Request(1, 300, 0).tokens, 1);
  again.prompt_logprobs = true;
  EXPECT_EQ(RunOne(&scheduler, &model, again), 300u);
  EXPECT_EQ(scheduler.prefix_cache_stats().hits, 0u);
  // What it computed is of use to others all the same.
  EXPECT_EQ(RunOne(&scheduler, &model, With(3, again.tokens, 1)), 300u - 256);
}

TEST(PrefixCacheTest, SaltsKeepRequestsApart) {
  Scheduler scheduler(Options(100));
  FakeModel model;
  const auto rows = [&](uint64_t id, const char* salt) {
    ScheduledRequest request = With(id, Request(1, 200, 0).tokens, 1);
    if (salt != nullptr) request.table.salt = std::make_shared<const std::string>(salt);
    return RunOne(&scheduler, &model, std::move(request));
  };
  EXPECT_EQ(rows(1, "a"), 200u);
  EXPECT_EQ(rows(2, "b"), 200u);
  EXPECT_EQ(rows(3, nullptr), 200u);
  EXPECT_EQ(rows(4, "b"), 8u);
  EXPECT_EQ(rows(5, ""), 8u) << "the empty salt is none";
}

TEST(PrefixCacheTest, APreemptedRequestFindsItsOwnBlocksAgain) {
  SchedulerOptions options = Options(100);
  options.preempt_every_steps = 50;
  size_t rows[2];
  std::vector<TokenId> tokens[2];
  for (const bool cache : {false, true}) {
    options.prefix_cache = cache;
    Scheduler scheduler(options);
    FakeModel model;
    rows[cache] = RunOne(&scheduler, &model, Request(1, 128, 120), &tokens[cache]);
    EXPECT_EQ(scheduler.prefix_cache_stats().hits, 0u) << "only what was skipped at first counts";
  }
  EXPECT_EQ(tokens[0], tokens[1]);
  EXPECT_GT(rows[0], 128u + 119 + 2 * 128);
  EXPECT_LT(rows[1], 128u + 119 + 3 * 64);
}

TEST(PrefixCacheTest, ForgottenNothingIsFoundAndRunningRequestsStartAnew) {
  const SchedulerOptions options = Options(100);
  Scheduler scheduler(options), undisturbed(options);
  FakeModel model;
  std::vector<TokenId> first, expected, actual;
  RunOne(&scheduler, &model, Request(1, 200, 10), &first);
  EXPECT_GT(scheduler.blocks_idle(), 0u);
  RunOne(&undisturbed, &model, Request(2, 200, 40), &expected);
  // In the middle of its output.
  ASSERT_TRUE(scheduler.Submit(Request(2, 200, 40)).ok());
  while (scheduler.Find(RequestId(2))->tokens.size() < 220) {
    const StepPlan& plan = scheduler.Plan({});
    const auto next = model.Run(plan.batch);
    scheduler.CommitStep();
    for (const auto& [id, token] : next) scheduler.CommitToken(id, token);
  }
  scheduler.ForgetCache();
  EXPECT_EQ(scheduler.blocks_idle(), 0u);
  EXPECT_EQ(scheduler.blocks_used(), 0u);
  EXPECT_EQ(scheduler.waiting(), 1u);
  EXPECT_EQ(scheduler.Find(RequestId(2))->computed, 0u);
  while (scheduler.Find(RequestId(2)) != nullptr) {
    const StepPlan& plan = scheduler.Plan({});
    const auto next = model.Run(plan.batch);
    scheduler.CommitStep();
    for (const auto& [id, token] : next) {
      actual = scheduler.Find(id)->tokens;
      actual.push_back(token);
      if (actual.size() == 240) {
        scheduler.Remove(id);
      } else {
        scheduler.CommitToken(id, token);
      }
    }
  }
  EXPECT_EQ(actual, expected);
}

TEST(PrefixCacheTest, SharedBlocksTakeRoomOnce) {
  SchedulerOptions options = Options(10);
  options.step_tokens_max = 64 * 8;
  Scheduler scheduler(options);
  FakeModel model;
  const ScheduledRequest first = Request(1, 64 * 7, 100);
  ASSERT_TRUE(scheduler.Submit(first).ok());
  model.Run(scheduler.Plan({}).batch);
  scheduler.CommitStep();
  scheduler.CommitToken(RequestId(1), 1);
  std::vector<TokenId> prompt = first.tokens;
  prompt.push_back(7);
  ASSERT_TRUE(scheduler.Submit(With(2, prompt, 10)).ok());
  const StepPlan& plan = scheduler.Plan({});
  EXPECT_THAT(plan.admitted, testing::ElementsAre(RequestId(2)));
  EXPECT_EQ(plan.batch.rows(), 2u);
  EXPECT_EQ(scheduler.blocks_used(), 9u);
}

}  // namespace
}  // namespace octet
