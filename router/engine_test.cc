#include "router/engine.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "router/test_util.h"

namespace octet {
namespace {

using testing::HasSubstr;

// One package for all tests: packing takes longer than running.
class EngineTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    temp_ = std::make_unique<TempDirectory>();
    PackOptions options;
    options.experts = options.attention = "f32";
    package_ = PackGolden("mixtral-f32", temp_->path(), options);
    tokenizer_ = MakeByteTokenizer(package_->config().vocab);
  }
  static void TearDownTestSuite() {
    package_.reset();
    tokenizer_.reset();
    temp_.reset();
  }

  EngineOptions Options() {
    EngineOptions options;
    options.kv_cache_bytes = 4u << 20;
    options.cpu_level = DetectCpuLevel();
    return options;
  }

  // `spoil` may change the router's weights first.
  void Start(const EngineOptions& options, uint32_t workers = 2,
             const std::function<void(RouterWeights*)>& spoil = nullptr) {
    engine_.reset();
    cluster_ = std::make_unique<LocalCluster>(
        package_, LocalCluster::Options{workers, 1, 1, DetectCpuLevel()}, &clock_);
    auto weights = package_->MapRouter(1);
    ASSERT_TRUE(weights.ok()) << weights.status();
    if (spoil) spoil(&*weights);
    auto engine = Engine::Start(package_, *std::move(weights), tokenizer_, cluster_->dispatcher(),
                                &clock_, options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }

  static GenerationRequest Request(std::vector<TokenId> prompt, uint32_t tokens) {
    GenerationRequest request;
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0;
    request.stop.max_tokens = tokens;
    request.stop.ignore_eos = true;
    return request;
  }
  static std::vector<TokenId> Prompt(uint32_t seed, uint32_t length) {
    std::vector<TokenId> prompt;
    for (uint32_t i = 0; i < length; ++i) {
      prompt.push_back(static_cast<TokenId>((seed * 31 + i * 17 + i * i * 5) % 90));
    }
    return prompt;
  }

  std::shared_ptr<CollectingSink> Submit(GenerationRequest request, RequestId* id = nullptr) {
    auto sink = std::make_shared<CollectingSink>();
    const auto submitted = engine_->Submit(std::move(request), sink);
    EXPECT_TRUE(submitted.ok()) << submitted.status();
    if (id != nullptr && submitted.ok()) *id = *submitted;
    return sink;
  }
  std::shared_ptr<CollectingSink> Generate(GenerationRequest request) {
    auto sink = Submit(std::move(request));
    sink->WaitEnd();
    return sink;
  }

  // With the given cache: too little room for six requests changes no token.
  void ExpectPressureKeepsTheTokens(DType kv_dtype);
  // A token whose embedding is NaN fails the requests that hold it, and no other.
  void ExpectPoisonFailsAlone(DType kv_dtype);

  static std::unique_ptr<TempDirectory> temp_;
  static std::shared_ptr<const ModelPackage> package_;
  static std::shared_ptr<const Tokenizer> tokenizer_;
  SystemClock clock_;
  std::unique_ptr<LocalCluster> cluster_;
  std::unique_ptr<Engine> engine_;
};

std::unique_ptr<TempDirectory> EngineTest::temp_;
std::shared_ptr<const ModelPackage> EngineTest::package_;
std::shared_ptr<const Tokenizer> EngineTest::tokenizer_;

TEST_F(EngineTest, StreamsTokensWithIndicesUsageAndOneEnd) {
  Start(Options());
  const auto sink = Generate(Request(Prompt(1, 5), 9));
  ASSERT_TRUE(sink->status.ok()) << sink->status;
  EXPECT_EQ(sink->tokens.size(), 9u);
  EXPECT_EQ(sink->indices, (std::vector<uint32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(sink->result.reason, FinishReason::kLength);
  EXPECT_EQ(sink->result.usage.prompt_tokens, 5u);
  EXPECT_EQ(sink->result.usage.completion_tokens, 9u);
  EXPECT_EQ(sink->ends, 1);
  EXPECT_EQ(sink->text, tokenizer_->Decode(sink->tokens, true));
}

TEST_F(EngineTest, LogprobsAgreeBetweenPromptAndGeneration) {
  Start(Options());
  GenerationRequest request = Request(Prompt(2, 6), 12);
  request.logprobs = true;
  request.top_logprobs = 3;
  const auto generated = Generate(request);
  ASSERT_EQ(generated->logprobs.size(), 12u);
  // The same text as a prompt: the model must give its own tokens the same probabilities.
  GenerationRequest forced = request;
  forced.prompt.insert(forced.prompt.end(), generated->tokens.begin(), generated->tokens.end());
  forced.prompt_logprobs = true;
  forced.stop.max_tokens = 1;
  const auto scored = Generate(forced);
  ASSERT_EQ(scored->prompt_logprobs.size(), forced.prompt.size() - 1);
  for (size_t i = 0; i < 12; ++i) {
    const TokenLogprob& a = generated->logprobs[i];
    const TokenLogprob& b = scored->prompt_logprobs[request.prompt.size() - 1 + i];
    EXPECT_EQ(a.logprob, b.logprob) << i;
    EXPECT_EQ(a.top, b.top) << i;
    EXPECT_EQ(a.top.at(0).first, generated->tokens[i]) << "greedy takes the best";
  }
}

TEST_F(EngineTest, ResumeSendsTheSameTokensFromTheIndexOn) {
  Start(Options());
  GenerationRequest request = Request(Prompt(3, 7), 10);
  request.sampling.temperature = 1.3f;
  request.sampling.seed = 77;
  const auto whole = Generate(request);
  request.resume_index = 4;
  const auto rest = Generate(request);
  EXPECT_EQ(rest->tokens, std::vector<TokenId>(whole->tokens.begin() + 4, whole->tokens.end()));
  EXPECT_EQ(rest->indices.at(0), 4u);
  EXPECT_EQ(rest->result.usage.completion_tokens, 10u);
}

TEST_F(EngineTest, ResumeWithTheTokensReadsThemAndGoesOn) {
  Start(Options());
  GenerationRequest request = Request(Prompt(3, 7), 80);
  request.sampling.temperature = 1.3f;
  request.sampling.seed = 77;
  request.sampling.frequency_penalty = 0.5f;
  const auto whole = Generate(request);
  for (const uint32_t index : {1u, 2u, 70u, 80u}) {
    Start(Options());  // nothing is cached
    GenerationRequest resumed = request;
    resumed.resume_index = index;
    resumed.resume_tokens.assign(whole->tokens.begin(), whole->tokens.begin() + index);
    const auto rest = Generate(resumed);
    ASSERT_TRUE(rest->status.ok()) << rest->status;
    EXPECT_EQ(rest->tokens,
              std::vector<TokenId>(whole->tokens.begin() + index, whole->tokens.end()));
    EXPECT_EQ(rest->result.usage.completion_tokens, 80u);
    EXPECT_EQ(rest->result.usage.prompt_tokens, 7u);
    engine_->Drain(kNever);  // counters are those of the last completed step
    // The prompt and what came, in one step, then one step a token from the last one that came.
    EXPECT_EQ(engine_->stats().steps, 80u - index + 1);
  }
}

TEST_F(EngineTest, ResumeWithAnotherRequestsTokensIsAborted) {
  Start(Options());
  GenerationRequest request = Request(Prompt(3, 7), 20);
  const auto whole = Generate(request);
  request.resume_index = 5;
  request.resume_tokens.assign(whole->tokens.begin(), whole->tokens.begin() + 5);
  request.resume_tokens[4] = (request.resume_tokens[4] + 1) % 90;
  const auto rest = Generate(request);
  EXPECT_EQ(rest->status.code(), absl::StatusCode::kAborted) << rest->status;
  EXPECT_TRUE(rest->tokens.empty());
  // An answer that ended before the tokens do.
  request.stop.stop_ids = {whole->tokens[1]};
  request.resume_tokens.assign(whole->tokens.begin(), whole->tokens.begin() + 5);
  const auto ended = Generate(request);
  EXPECT_EQ(ended->status.code(), absl::StatusCode::kInvalidArgument) << ended->status;
  EXPECT_THAT(std::string(ended->status.message()), HasSubstr("resume_token_ids"));
}

void EngineTest::ExpectPressureKeepsTheTokens(DType kv_dtype) {
  EngineOptions options = Options();
  options.kv_dtype = kv_dtype;
  Start(options);
  std::vector<std::vector<TokenId>> expected;
  for (uint32_t i = 0; i < 6; ++i) {
    GenerationRequest request = Request(Prompt(i, 30 + 20 * i), 100);
    request.sampling.temperature = i % 2 == 0 ? 0.0f : 1.0f;
    request.sampling.seed = i;
    expected.push_back(Generate(request)->tokens);
  }
  options.kv_cache_bytes = 6 * 2 * KvBlockLayerBytes(kv_dtype, 4, 8);
  options.chunk_tokens = 16;
  Start(options);
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (uint32_t i = 0; i < 6; ++i) {
    GenerationRequest request = Request(Prompt(i, 30 + 20 * i), 100);
    request.sampling.temperature = i % 2 == 0 ? 0.0f : 1.0f;
    request.sampling.seed = i;
    sinks.push_back(Submit(request));
  }
  uint32_t preemptions = 0;
  for (size_t i = 0; i < sinks.size(); ++i) {
    sinks[i]->WaitEnd();
    ASSERT_TRUE(sinks[i]->status.ok()) << sinks[i]->status;
    EXPECT_EQ(sinks[i]->tokens, expected[i]) << i;
    preemptions += sinks[i]->result.usage.preemptions;
  }
  EXPECT_GT(preemptions, 0u);
  engine_->Drain(kNever);  // counters are those of the last completed step
  EXPECT_EQ(engine_->stats().kv_blocks_used, 0u);
  EXPECT_EQ(engine_->stats().preemptions, preemptions);
}

TEST_F(EngineTest, PressureOnTheCachePreemptsAndKeepsTheTokens) {
  ExpectPressureKeepsTheTokens(DType::kF16);
}

TEST_F(EngineTest, SoItIsWithACacheInInt8) { ExpectPressureKeepsTheTokens(DType::kI8); }

TEST_F(EngineTest, TheTypeOfTheCacheIsPartOfTheComputeDigest) {
  std::vector<std::string> digests;
  for (const DType dtype : {DType::kF16, DType::kF32, DType::kI8}) {
    EngineOptions options = Options();
    options.kv_dtype = dtype;
    Start(options);
    digests.push_back(engine_->compute_digest());
    EXPECT_EQ(digests.back().size(), 64u);
  }
  EXPECT_EQ(digests[0], package_->compute_digest());
  EXPECT_NE(digests[1], digests[0]);
  EXPECT_NE(digests[2], digests[0]);
  EXPECT_NE(digests[2], digests[1]);
}

// ---- The tier in files ----

// The files of a tier, each passed to `change`.
void ChangeFiles(const std::string& directory, const std::function<void(std::string*)>& change) {
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    std::ifstream in(entry.path(), std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    in.close();
    change(&bytes);
    std::ofstream(entry.path(), std::ios::binary) << bytes;
  }
}

TEST_F(EngineTest, AnotherRouterTakesBlocksFromTheTierAndGivesTheSameTokens) {
  const TempDirectory tier;
  EngineOptions options = Options();
  GenerationRequest request = Request(Prompt(5, 200), 150);
  request.sampling.temperature = 1.0f;
  request.sampling.seed = 4;
  Start(options);
  const auto expected = Generate(request);
  options.kv_tier_dir = tier.path();
  const auto run = [&] {
    Start(options);
    auto sink = Generate(request);
    EXPECT_TRUE(sink->status.ok()) << sink->status;
    EXPECT_EQ(sink->tokens, expected->tokens);
    return sink->result.usage.cached_tokens;
  };
  EXPECT_EQ(run(), 0u);
  EXPECT_EQ(run(), 192u) << "three blocks of the prompt; its last position is always computed";
  // A stream that is resumed elsewhere finds its generated tokens too.
  Start(options);
  GenerationRequest resumed = request;
  resumed.resume_index = 149;
  resumed.resume_tokens.assign(expected->tokens.begin(), expected->tokens.begin() + 149);
  const auto rest = Generate(resumed);
  EXPECT_EQ(rest->tokens, std::vector<TokenId>({expected->tokens[149]}));
  EXPECT_EQ(engine_->stats().kv_tier.read, 5u) << "320 of 348 positions";
  // Files with another content than their writer gave them are nobody's blocks.
  engine_.reset();
  ChangeFiles(tier.path(), [](std::string* bytes) { (*bytes)[bytes->size() / 2] ^= 1; });
  EXPECT_EQ(run(), 0u);
  EXPECT_EQ(run(), 192u) << "they were written anew";
  engine_.reset();
  ChangeFiles(tier.path(), [](std::string* bytes) { bytes->resize(bytes->size() - 1); });
  EXPECT_EQ(run(), 0u);
  // Another salt, or another type of the cache, finds nothing.
  request.cache_salt = "other";
  EXPECT_EQ(run(), 0u);
  request.cache_salt.clear();
  options.kv_dtype = DType::kF32;
  Start(options);
  EXPECT_EQ(Generate(request)->result.usage.cached_tokens, 0u);
}

// A request for which no damaged worker has computed keeps its tokens; one for which it may have
// ends, and so does one that took over what others had computed.
TEST_F(EngineTest, ADamagedWorkerEndsTheRequestsItMayHaveComputedFor) {
  EngineOptions options = Options();
  options.running_max = 1;
  Start(options);
  const GenerationRequest untouched = Request(Prompt(8, 20), 30);
  const auto expected = Generate(untouched);
  const auto running = Submit(Request(Prompt(9, 130), 400));
  running->WaitTokens(3);
  const auto waiting = Submit(untouched);  // has not run yet
  engine_->WorkerDamaged(WorkerId(1));
  running->WaitEnd();
  EXPECT_TRUE(absl::IsDataLoss(running->status)) << running->status;
  EXPECT_THAT(std::string(running->status.message()), HasSubstr("worker 1"));
  waiting->WaitEnd();
  EXPECT_TRUE(waiting->status.ok()) << waiting->status;
  EXPECT_EQ(waiting->tokens, expected->tokens);
  // Told again, nothing more ends; what was computed before is forgotten.
  const auto later = Submit(Request(Prompt(9, 130), 200));
  later->WaitTokens(3);
  engine_->WorkerDamaged(WorkerId(1));
  later->WaitEnd();
  EXPECT_TRUE(later->status.ok()) << later->status;
  EXPECT_EQ(later->result.usage.cached_tokens, 0u);
  // A worker of which nobody here has heard concerns only what came from elsewhere.
  const auto cached = Submit(Request(Prompt(9, 130), 400));
  cached->WaitTokens(3);
  engine_->WorkerDamaged(WorkerId(99));
  cached->WaitEnd();
  EXPECT_TRUE(absl::IsDataLoss(cached->status)) << cached->status;
  const auto fresh = Submit(Request(Prompt(10, 130), 300));
  fresh->WaitTokens(3);
  engine_->WorkerDamaged(WorkerId(98));
  fresh->WaitEnd();
  EXPECT_TRUE(fresh->status.ok()) << fresh->status;
}

TEST_F(EngineTest, ATierThatCannotBeWrittenFailsNoRequest) {
  const TempDirectory tier;
  EngineOptions options = Options();
  options.kv_tier_dir = tier.path();
  options.kv_tier_bytes = 1 << 20;
  Start(options);
  const auto expected = Generate(Request(Prompt(6, 70), 100));
  std::filesystem::remove_all(tier.path());  // as a file system that has failed
  for (uint32_t i = 0; i < 3; ++i) {
    const auto sink = Generate(Request(Prompt(7 + i, 200), 10));
    EXPECT_TRUE(sink->status.ok()) << sink->status;
  }
  EXPECT_EQ(Generate(Request(Prompt(6, 70), 100))->tokens, expected->tokens);
}

TEST_F(EngineTest, CancelEndsARunningRequestAndFreesIt) {
  Start(Options());
  RequestId id;
  const auto sink = Submit(Request(Prompt(1, 4), 400), &id);
  sink->WaitTokens(1);
  engine_->Cancel(id);
  engine_->Cancel(RequestId(999));
  sink->WaitEnd();
  EXPECT_EQ(sink->status.code(), absl::StatusCode::kCancelled);
  engine_->Drain(kNever);
  EXPECT_EQ(engine_->stats().kv_blocks_used, 0u);
  EXPECT_EQ(sink->after_end, 0);
}

TEST_F(EngineTest, ADeadlineEndsTheRequestWithItsCode) {
  Start(Options());
  GenerationRequest request = Request(Prompt(1, 4), 400);
  request.deadline = clock_.Now();
  EXPECT_EQ(Generate(request)->status.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(EngineTest, WithoutReplicasRequestsWaitAndGoOnWhenOneComes) {
  Start(Options(), /*workers=*/1);
  const auto expected = Generate(Request(Prompt(5, 8), 6))->tokens;
  Start(Options(), /*workers=*/0);
  GenerationRequest doomed = Request(Prompt(1, 4), 4);
  doomed.deadline = clock_.Now() + Duration::Millis(20);
  const auto patient = Submit(Request(Prompt(5, 8), 6));
  const auto failed = Generate(doomed);
  EXPECT_EQ(failed->status.code(), absl::StatusCode::kUnavailable) << failed->status;
  cluster_->SetPlacement(ChainPlacement(*package_, 1, 1));
  patient->WaitEnd();
  EXPECT_TRUE(patient->status.ok()) << patient->status;
  EXPECT_EQ(patient->tokens, expected);
}

TEST_F(EngineTest, CancelWorksWhileNoReplicaIsThere) {
  Start(Options(), /*workers=*/0);
  RequestId id;
  const auto sink = Submit(Request(Prompt(1, 4), 4), &id);
  engine_->Cancel(id);
  sink->WaitEnd();
  EXPECT_EQ(sink->status.code(), absl::StatusCode::kCancelled);
}

TEST_F(EngineTest, AFullQueueRefuses) {
  EngineOptions options = Options();
  options.running_max = 1;
  options.waiting_max = 2;
  Start(options, /*workers=*/0);  // nothing ever finishes
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  absl::Status refused;
  for (int i = 0; i < 5 && refused.ok(); ++i) {
    sinks.push_back(std::make_shared<CollectingSink>());
    refused = engine_->Submit(Request(Prompt(1, 4), 4), sinks.back()).status();
  }
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(engine_->stats().rejections, 1u);
  EXPECT_EQ(sinks.back()->ends, 0) << "a refused sink is never called";
}

TEST_F(EngineTest, DrainRefusesNewRequestsAndWaitsForTheOthers) {
  Start(Options());
  const auto sink = Submit(Request(Prompt(1, 4), 50));
  engine_->Drain(kNever);
  EXPECT_EQ(sink->ends, 1);
  EXPECT_TRUE(sink->status.ok());
  EXPECT_EQ(engine_->Submit(Request(Prompt(1, 4), 4), sink).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(EngineTest, DestructionCancelsWhatIsInFlight) {
  Start(Options(), /*workers=*/0);
  const auto sink = Submit(Request(Prompt(1, 4), 50));
  engine_.reset();
  EXPECT_EQ(sink->status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(sink->ends, 1);
}

TEST_F(EngineTest, APromptLongerThanTheContextIsRefused) {
  EngineOptions options = Options();
  options.context_max = 40;
  Start(options);
  EXPECT_EQ(engine_->context_max(), 40u);
  const auto sink = std::make_shared<CollectingSink>();
  const absl::Status status = engine_->Submit(Request(Prompt(1, 40), 1), sink).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("40"));
  // Up to the end of the context otherwise.
  const auto full = Generate(Request(Prompt(1, 30), 0));
  EXPECT_EQ(full->tokens.size(), 10u);
  EXPECT_EQ(full->result.reason, FinishReason::kLength);
}

TEST_F(EngineTest, BadOptionsAreNamed) {
  EngineOptions options = Options();
  options.step_tokens_max = 0;
  cluster_ = std::make_unique<LocalCluster>(package_, LocalCluster::Options{}, &clock_);
  const auto engine = Engine::Start(package_, *package_->MapRouter(1), tokenizer_,
                                    cluster_->dispatcher(), &clock_, options);
  EXPECT_EQ(engine.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(engine.status().message()), HasSubstr("step_tokens_max"));
}

void EngineTest::ExpectPoisonFailsAlone(DType kv_dtype) {
  constexpr TokenId kPoison = 95;
  EngineOptions options = Options();
  options.kv_dtype = kv_dtype;
  Start(options);
  const auto expected = Generate(Request(Prompt(4, 70), 20))->tokens;
  std::vector<uint8_t> copy;
  Start(options, 2, [&](RouterWeights* weights) {
    // The embedding row of one token becomes NaN: f32 panels of 16 rows, [k][16] values.
    PackedWeights& table = weights->embedding;
    const size_t bytes = PackedBytes(table.format, table.n, table.k);
    copy.resize(bytes + 64);
    uint8_t* aligned = copy.data() + (64 - reinterpret_cast<uintptr_t>(copy.data()) % 64) % 64;
    std::memcpy(aligned, table.data, bytes);
    float* panel = reinterpret_cast<float*>(aligned) + kPoison / 16 * 16 * table.k;
    for (size_t k = 0; k < table.k; ++k) panel[k * 16 + kPoison % 16] = NAN;
    table.data = aligned;
  });
  std::vector<TokenId> poisoned = Prompt(9, 80);
  poisoned[40] = kPoison;
  // Twice, so that the second healthy request reuses blocks full of NaN.
  for (int round = 0; round < 2; ++round) {
    const auto bad = Submit(Request(poisoned, 20));
    const auto good = Submit(Request(Prompt(4, 70), 20));
    bad->WaitEnd();
    good->WaitEnd();
    EXPECT_EQ(bad->status.code(), absl::StatusCode::kInternal) << bad->status;
    EXPECT_TRUE(bad->tokens.empty());
    ASSERT_TRUE(good->status.ok()) << good->status;
    EXPECT_EQ(good->tokens, expected);
  }
}

TEST_F(EngineTest, ARowThatIsNotFiniteFailsItsRequestAlone) {
  ExpectPoisonFailsAlone(DType::kF16);
  ExpectPoisonFailsAlone(DType::kI8);
}

}  // namespace
}  // namespace octet
