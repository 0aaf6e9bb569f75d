// The same requests give the same tokens and the same log-probabilities, bit for bit, however they
// are computed: placement, transport, replication, batch, chunk, threads, instruction set,
// preemption, prefix cache, micro-batches. Every test run covers each pair of values of each two of
// these; with OCTET_IDENTITY_FULL=1 the whole product runs and a table for docs/identity.md is
// printed (n: only every n-th combination).
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/log.h"
#include "core/sha256.h"
#include "gtest/gtest.h"
#include "router/test_util.h"
#include "tests/identity/covering_array.h"
#include "tests/identity/worker_group.h"

namespace octet {
namespace {

struct Weights {
  const char* name;
  const char* golden;
  const char* experts;
  const char* attention;
};
// Three of them in formats of our own, two in GGUF's.
constexpr Weights kWeights[] = {
    {"f32", "mixtral-f32", "f32", "f32"},
    {"int4/int8", "mixtral-gqa4-bf16", "int4", "int8"},
    {"w4x/int8", "mixtral-gqa4-bf16", "w4x", "int8"},
    {"q4_0", "gguf-q4_0", "source", "source"},
    {"Q4_K", "gguf-q4_k", "source", "source"},
};
struct Cluster {
  GroupKind kind;
  uint32_t workers;
};
constexpr Cluster kClusters[] = {
    {GroupKind::kInProcess, 1}, {GroupKind::kLocal, 1}, {GroupKind::kLocal, 2},
    {GroupKind::kLocal, 3},     {GroupKind::kLocal, 4}, {GroupKind::kLocal, 8},
    {GroupKind::kGrpc, 1},      {GroupKind::kGrpc, 2},  {GroupKind::kGrpc, 3},
    {GroupKind::kGrpc, 4},      {GroupKind::kGrpc, 8},  {GroupKind::kShm, 1},
    {GroupKind::kShm, 2},       {GroupKind::kShm, 3},   {GroupKind::kShm, 4},
    {GroupKind::kShm, 8}};
constexpr uint32_t kReplications[] = {1, 2};
constexpr uint32_t kBatches[] = {1, 7, 32};
constexpr uint32_t kWhole = 512;
constexpr uint32_t kChunks[] = {1, 16, 64, kWhole};
constexpr int kThreads[] = {1, 2};

constexpr uint32_t kRequests = 32;
constexpr uint32_t kNewTokens = 8;

// Positions in a Configuration. What is costly to set up changes slowest in the full product.
enum Dimension {
  kWeightsD,
  kClusterD,
  kReplicationD,
  kThreadsD,
  kLevelD,
  kBatchD,
  kChunkD,
  kPreemptD,
  // The full product goes through these two in turn instead of multiplying with them.
  kPrefixCacheD,
  kMicroBatchesD,
  kDimensions
};
constexpr size_t kProductDimensions = kPrefixCacheD;

std::vector<size_t> Sizes() {
  return {std::size(kWeights),
          std::size(kClusters),
          std::size(kReplications),
          std::size(kThreads),
          static_cast<size_t>(DetectCpuLevel()) + 1,
          std::size(kBatches),
          std::size(kChunks),
          2,
          2,
          2};
}

std::string ClusterName(const Cluster& cluster) {
  switch (cluster.kind) {
    case GroupKind::kInProcess:
      return "in-process";
    case GroupKind::kLocal:
      return absl::StrCat(cluster.workers, " x local");
    case GroupKind::kGrpc:
      return absl::StrCat(cluster.workers, " x gRPC");
    case GroupKind::kShm:
      return absl::StrCat(cluster.workers, " x shared memory");
  }
  return "";
}

std::string Describe(const Configuration& c) {
  return absl::StrCat(kWeights[c[kWeightsD]].name, ", ", ClusterName(kClusters[c[kClusterD]]),
                      ", replication ", kReplications[c[kReplicationD]], ", threads ",
                      kThreads[c[kThreadsD]], ", ", CpuLevelName(static_cast<CpuLevel>(c[kLevelD])),
                      ", batch ", kBatches[c[kBatchD]], ", chunk ", kChunks[c[kChunkD]],
                      c[kPreemptD] == 1 ? ", preempting" : "",
                      c[kPrefixCacheD] == 1 ? ", prefix cache" : "",
                      c[kMicroBatchesD] == 1 ? ", two micro-batches" : "");
}

// Every eighth prompt crosses a block of the cache.
bool IsLong(uint32_t index) { return index % 8 == 7; }

// Even requests are greedy, odd ones sampled, each with its own settings. Long prompts have their
// first block in common.
GenerationRequest MakeRequest(uint32_t index, uint32_t vocab) {
  GenerationRequest request;
  const uint32_t length = IsLong(index) ? 60 + index : 2 + (index * 5) % 19;
  for (uint32_t i = 0; i < length; ++i) {
    const uint32_t own = IsLong(index) && i < kKvBlockPositions ? 7 : index;
    request.prompt.push_back(static_cast<TokenId>((own * 37 + i * 11 + i * i * 3) % vocab));
  }
  SamplingSettings& s = request.sampling;
  s.temperature = index % 2 == 0 ? 0.0f : 0.7f + 0.05f * static_cast<float>(index);
  s.top_k = index % 3 == 0 ? 40 : 0;
  s.top_p = index % 5 == 0 ? 0.9f : 1.0f;
  s.min_p = index % 7 == 0 ? 0.02f : 0.0f;
  s.repetition_penalty = index % 4 == 3 ? 1.2f : 1.0f;
  s.seed = 1000 + index;
  request.stop.max_tokens = kNewTokens;
  request.stop.ignore_eos = true;
  request.logprobs = true;
  return request;
}

struct Outcome {
  std::string greedy;         // SHA-256 of the tokens of greedy requests
  std::string sampled;        // and of sampled ones
  std::string logprobs;       // of the bits of all log-probabilities
  bool repeats_equal = true;  // of requests asked again with the prefix cache on
  uint64_t cached_tokens = 0;
  uint64_t preemptions = 0;
  size_t distinct_tokens = 0;
  friend bool operator==(const Outcome& a, const Outcome& b) {
    return a.greedy == b.greedy && a.sampled == b.sampled && a.logprobs == b.logprobs &&
           a.repeats_equal == b.repeats_equal;
  }
};

class IdentityTest : public testing::Test {
 protected:
  IdentityTest() { SetLogLevel(LogLevel::kError); }
  ~IdentityTest() override { SetLogLevel(LogLevel::kInfo); }

  Outcome Run(const Configuration& c) {
    const std::shared_ptr<const ModelPackage>& package = Package(c[kWeightsD]);
    const ModelConfig& config = package->config();
    const Cluster& cluster = kClusters[c[kClusterD]];
    const GroupShape shape{cluster.kind, cluster.workers, kReplications[c[kReplicationD]],
                           kThreads[c[kThreadsD]], static_cast<CpuLevel>(c[kLevelD])};
    if (group_ == nullptr || group_package_ != package || !(group_shape_ == shape)) {
      group_ = std::make_unique<WorkerGroup>(package, shape);
      group_package_ = package;
      group_shape_ = shape;
    }
    const std::unique_ptr<TokenDispatcher> dispatcher = group_->MakeDispatcher(&clock_);
    EngineOptions options;
    options.threads = shape.threads;
    options.cpu_level = shape.level;
    options.running_max = kBatches[c[kBatchD]];
    options.chunk_tokens = kChunks[c[kChunkD]];
    options.step_tokens_max = kWhole + options.running_max;
    options.kv_cache_bytes = 16u << 20;
    options.prefix_cache = c[kPrefixCacheD] == 1;
    options.micro_batches = c[kMicroBatchesD] == 1 ? 2 : 1;
    if (c[kPreemptD] == 1) {
      // Both kinds: by the hook, and by a cache of eight blocks.
      options.preempt_every_steps = options.chunk_tokens == 1 ? 13 : 3;
      options.kv_cache_bytes =
          8 * config.layers * KvBlockLayerBytes(DType::kF16, config.kv_heads, config.head_dim);
    }
    auto weights = package->MapRouter(1);
    OCTET_CHECK(weights.ok()) << weights.status().ToString();
    auto engine = Engine::Start(package, *std::move(weights), MakeByteTokenizer(config.vocab),
                                dispatcher.get(), &clock_, options);
    OCTET_CHECK(engine.ok()) << engine.status().ToString();
    Outcome outcome = Generate(engine->get(), config.vocab);
    if (options.prefix_cache) AskAgain(engine->get(), config.vocab, &outcome);
    return outcome;
  }

  // The long requests once more: what they share with the first time comes from the cache.
  void AskAgain(Engine* engine, uint32_t vocab, Outcome* outcome) {
    for (uint32_t i = 0; i < kRequests; ++i) {
      if (!IsLong(i)) continue;
      const auto sink = std::make_shared<CollectingSink>();
      EXPECT_TRUE(engine->Submit(MakeRequest(i, vocab), sink).ok());
      sink->WaitEnd();
      EXPECT_TRUE(sink->status.ok()) << sink->status;
      outcome->cached_tokens += sink->result.usage.cached_tokens;
      outcome->repeats_equal &= sink->tokens == long_sinks_.at(i)->tokens;
      const auto& first = long_sinks_.at(i)->logprobs;
      outcome->repeats_equal &= std::equal(
          first.begin(), first.end(), sink->logprobs.begin(), sink->logprobs.end(),
          [](const TokenLogprob& a, const TokenLogprob& b) { return a.logprob == b.logprob; });
    }
  }

  Outcome Generate(Engine* engine, uint32_t vocab) {
    std::vector<std::shared_ptr<CollectingSink>> sinks;
    for (uint32_t i = 0; i < kRequests; ++i) {
      sinks.push_back(std::make_shared<CollectingSink>());
      const auto id = engine->Submit(MakeRequest(i, vocab), sinks.back());
      EXPECT_TRUE(id.ok()) << id.status();
    }
    Outcome outcome;
    Sha256Stream greedy, sampled, logprobs;
    std::set<TokenId> distinct;
    for (uint32_t i = 0; i < kRequests; ++i) {
      sinks[i]->WaitEnd();
      if (IsLong(i)) long_sinks_[i] = sinks[i];
      EXPECT_TRUE(sinks[i]->status.ok()) << sinks[i]->status;
      EXPECT_EQ(sinks[i]->tokens.size(), kNewTokens);
      const std::vector<TokenId>& tokens = sinks[i]->tokens;
      distinct.insert(tokens.begin(), tokens.end());
      (i % 2 == 0 ? greedy : sampled).Update(tokens.data(), tokens.size() * sizeof(TokenId));
      for (const TokenLogprob& l : sinks[i]->logprobs) logprobs.Update(&l.logprob, sizeof(float));
      outcome.preemptions += sinks[i]->result.usage.preemptions;
    }
    outcome.greedy = DigestHex(greedy.Finish());
    outcome.sampled = DigestHex(sampled.Finish());
    outcome.logprobs = DigestHex(logprobs.Finish());
    outcome.distinct_tokens = distinct.size();
    return outcome;
  }

  // The plainest way to compute: in-process, one request after another, scalar, one thread.
  const Outcome& Expected(size_t weights) {
    auto [it, missing] = expected_.try_emplace(weights);
    if (missing) {
      Configuration plain(Sizes().size(), 0);
      plain[kWeightsD] = weights;
      plain[kChunkD] = std::size(kChunks) - 1;
      it->second = Run(plain);
    }
    return it->second;
  }

 private:
  const std::shared_ptr<const ModelPackage>& Package(size_t weights) {
    std::shared_ptr<const ModelPackage>& package = packages_[weights];
    if (package == nullptr) {
      PackOptions options;
      options.experts = kWeights[weights].experts;
      options.attention = kWeights[weights].attention;
      package = PackGolden(kWeights[weights].golden, temp_.path(), options);
    }
    return package;
  }

  SystemClock clock_;
  TempDirectory temp_;
  std::map<size_t, std::shared_ptr<const ModelPackage>> packages_;
  std::map<size_t, Outcome> expected_;
  std::map<uint32_t, std::shared_ptr<CollectingSink>> long_sinks_;  // of the latest Generate
  std::shared_ptr<const ModelPackage> group_package_;
  GroupShape group_shape_;
  std::unique_ptr<WorkerGroup> group_;
};

TEST_F(IdentityTest, TheReferenceIsWorthComparingWith) {
  std::set<std::string> digests;
  for (size_t w = 0; w < std::size(kWeights); ++w) {
    const Outcome& outcome = Expected(w);
    EXPECT_GT(outcome.distinct_tokens, 20u) << kWeights[w].name;
    digests.insert(outcome.greedy);
    digests.insert(outcome.sampled);
  }
  EXPECT_EQ(digests.size(), 2 * std::size(kWeights));
}

TEST_F(IdentityTest, EveryPairOfValuesGivesTheSameTokens) {
  if (std::getenv("OCTET_IDENTITY_FULL") != nullptr) GTEST_SKIP() << "the full product runs";
  uint64_t preemptions = 0;
  for (const Configuration& c : PairwiseArray(Sizes())) {
    const Outcome outcome = Run(c);
    const Outcome& expected = Expected(c[kWeightsD]);
    EXPECT_EQ(outcome.greedy, expected.greedy) << Describe(c);
    EXPECT_EQ(outcome.sampled, expected.sampled) << Describe(c);
    EXPECT_EQ(outcome.logprobs, expected.logprobs) << Describe(c);
    EXPECT_TRUE(outcome.repeats_equal) << Describe(c);
    if (c[kPrefixCacheD] == 1) {
      // The first block of four requests, which are one. A cache of eight blocks may have lost it.
      EXPECT_GE(outcome.cached_tokens, 3u * kKvBlockPositions) << Describe(c);
      EXPECT_LE(outcome.cached_tokens, 4u * kKvBlockPositions) << Describe(c);
    }
    if (c[kPreemptD] == 1) {
      EXPECT_GT(outcome.preemptions, 0u) << Describe(c);
    }
    preemptions += outcome.preemptions;
  }
  EXPECT_GT(preemptions, 100u);
}

struct Cell {
  size_t runs = 0;
  size_t equal = 0;
};

void PrintTable(const std::map<std::pair<size_t, size_t>, Cell>& cells,
                const std::vector<Outcome>& expected) {
  std::printf(
      "| weights | SHA-256 of greedy tokens | SHA-256 of sampled tokens |\n|---|---|---|\n");
  for (size_t w = 0; w < std::size(kWeights); ++w) {
    std::printf("| %s | `%.16s…` | `%.16s…` |\n", kWeights[w].name, expected[w].greedy.c_str(),
                expected[w].sampled.c_str());
  }
  std::printf("\n| cluster |");
  for (const Weights& w : kWeights) std::printf(" %s |", w.name);
  std::printf("\n|---|");
  for (size_t w = 0; w < std::size(kWeights); ++w) std::printf("---|");
  std::printf("\n");
  for (size_t k = 0; k < std::size(kClusters); ++k) {
    std::printf("| %s |", ClusterName(kClusters[k]).c_str());
    for (size_t w = 0; w < std::size(kWeights); ++w) {
      const auto it = cells.find({w, k});
      const Cell cell = it == cells.end() ? Cell() : it->second;
      std::printf(" %zu of %zu equal |", cell.equal, cell.runs);
    }
    std::printf("\n");
  }
}

TEST_F(IdentityTest, TheFullProductGivesTheSameTokens) {
  if (std::getenv("OCTET_IDENTITY_FULL") == nullptr) {
    GTEST_SKIP() << "set OCTET_IDENTITY_FULL=1, or run scripts/identity-full.sh";
  }
  std::map<std::pair<size_t, size_t>, Cell> cells;
  std::vector<Outcome> expected;
  for (size_t w = 0; w < std::size(kWeights); ++w) expected.push_back(Expected(w));
  std::vector<size_t> sizes = Sizes();
  sizes.resize(kProductDimensions);
  const std::vector<Configuration> all = FullProduct(sizes);
  const size_t stride = std::max(1, std::atoi(std::getenv("OCTET_IDENTITY_FULL")));
  for (size_t at = 0; at < all.size(); at += stride) {
    Configuration c = all[at];
    // Not in step with the dimensions that change fastest.
    c.resize(kDimensions);
    c[kPrefixCacheD] = at / 2 % 2 ^ at / 64 % 2;
    c[kMicroBatchesD] = at % 2 ^ at / 4 % 2 ^ at / 128 % 2;
    if (at % 100 == 0) std::fprintf(stderr, "%zu of %zu\n", at, all.size());
    // One process has nothing to replicate.
    if (kClusters[c[kClusterD]].kind == GroupKind::kInProcess && c[kReplicationD] != 0) continue;
    Cell& cell = cells[{c[kWeightsD], c[kClusterD]}];
    ++cell.runs;
    const bool equal = Run(c) == expected[c[kWeightsD]];
    EXPECT_TRUE(equal) << Describe(c);
    if (equal) ++cell.equal;
  }
  PrintTable(cells, expected);
}

}  // namespace
}  // namespace octet
