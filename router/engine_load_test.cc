// Measures an engine on a real model: rates, and the gaps of running requests while a long prompt
// arrives. Needs a model and a quiet machine, so it runs only where OCTET_LOAD_MODEL names one:
//   OCTET_LOAD_MODEL=moe.gguf OCTET_LOAD_THREADS=2 build/router/router_engine_load_test
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/clock.h"
#include "gtest/gtest.h"
#include "router/test_util.h"

namespace octet {
namespace {

constexpr uint32_t kLongPrompt = 4000;
constexpr uint32_t kRunning = 8;

// Notes when each token came.
class TimingSink final : public GenerationSink {
 public:
  explicit TimingSink(const Clock* clock) : clock_(clock) {}
  void OnChunk(GenerationChunk) override {
    times_.push_back(clock_->Now());
    collected_.OnChunk({0, {0}, "", {}, {}});
  }
  void OnFinished(GenerationResult result) override { collected_.OnFinished(std::move(result)); }
  void OnError(absl::Status status) override { collected_.OnError(std::move(status)); }
  void WaitTokens(size_t count) { collected_.WaitTokens(count); }
  // After the end.
  const std::vector<MonotonicTime>& Times() {
    collected_.WaitEnd();
    return times_;
  }

 private:
  const Clock* clock_;
  std::vector<MonotonicTime> times_;
  CollectingSink collected_;
};

class EngineLoadTest : public testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("OCTET_LOAD_MODEL");
    if (path == nullptr) GTEST_SKIP() << "set OCTET_LOAD_MODEL to a model to measure";
    const char* threads = std::getenv("OCTET_LOAD_THREADS");
    options_.threads = threads == nullptr ? 1 : std::atoi(threads);
    options_.cpu_level = DetectCpuLevel();
    options_.kv_cache_bytes = 1u << 30;
    ModelPackage::OpenOptions open;
    open.cache_directory = temp_.path();
    auto package = ModelPackage::Open(path, open, [](absl::string_view, uint64_t, uint64_t) {});
    ASSERT_TRUE(package.ok()) << package.status();
    vocab_ = (*package)->config().vocab;
    cluster_ = std::make_unique<LocalCluster>(
        *package, LocalCluster::Options{1, 1, options_.threads, options_.cpu_level}, &clock_);
    auto weights = (*package)->MapRouter(options_.threads);
    ASSERT_TRUE(weights.ok()) << weights.status();
    auto engine = Engine::Start(*package, *std::move(weights), MakeByteTokenizer(vocab_),
                                cluster_->dispatcher(), &clock_, options_);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
    ASSERT_GE(engine_->context_max(), kLongPrompt + 10);
  }

  std::shared_ptr<TimingSink> Submit(uint32_t prompt, uint32_t tokens) {
    GenerationRequest request;
    for (uint32_t i = 0; i < prompt; ++i) {
      request.prompt.push_back(static_cast<TokenId>((i * 7919 + prompt + ++salt_) % vocab_));
    }
    request.sampling.temperature = 0;
    request.stop.max_tokens = tokens;
    request.stop.ignore_eos = true;
    auto sink = std::make_shared<TimingSink>(&clock_);
    const auto id = engine_->Submit(std::move(request), sink);
    EXPECT_TRUE(id.ok()) << id.status();
    return sink;
  }

  double DecodeRate(uint32_t sequences, uint32_t tokens) {
    std::vector<std::shared_ptr<TimingSink>> sinks;
    for (uint32_t i = 0; i < sequences; ++i) sinks.push_back(Submit(16, tokens));
    MonotonicTime first = kNever, last{0};
    for (const auto& sink : sinks) {
      first = std::min(first, sink->Times().front());
      last = std::max(last, sink->Times().back());
    }
    return sequences * (tokens - 1) / (last - first).seconds();
  }

  double PrefillSeconds() {
    const MonotonicTime begin = clock_.Now();
    const auto sink = Submit(kLongPrompt, 1);
    return (sink->Times().front() - begin).seconds();
  }

  TempDirectory temp_;
  SystemClock clock_;
  EngineOptions options_;
  uint32_t vocab_ = 0;
  uint32_t salt_ = 0;
  std::unique_ptr<LocalCluster> cluster_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineLoadTest, GapsStayUnderTheBoundWhileALongPromptArrives) {
  DecodeRate(1, 16);  // touches every page
  std::printf("decode, 1 sequence:    %8.1f tokens/s\n", DecodeRate(1, 128));
  std::printf("decode, 16 sequences:  %8.1f tokens/s\n", DecodeRate(16, 64));
  const double alone = PrefillSeconds();
  std::printf("prefill, undisturbed:  %8.1f tokens/s\n", kLongPrompt / alone);

  std::vector<std::shared_ptr<TimingSink>> running;
  for (uint32_t i = 0; i < kRunning; ++i) running.push_back(Submit(200, 1500));
  for (const auto& sink : running) sink->WaitTokens(10);
  const MonotonicTime begin = clock_.Now();
  const auto prompt = Submit(kLongPrompt, 1);
  const MonotonicTime end = prompt->Times().front();
  std::vector<double> gaps;
  for (const auto& sink : running) {
    const std::vector<MonotonicTime>& times = sink->Times();
    ASSERT_GT(times.back(), end) << "the running requests ended before the prompt was read";
    for (size_t i = 1; i < times.size(); ++i) {
      if (times[i] >= begin && times[i - 1] <= end) {
        gaps.push_back((times[i] - times[i - 1]).millis());
      }
    }
  }
  std::sort(gaps.begin(), gaps.end());
  const double p99 = gaps[gaps.size() * 99 / 100];
  const double loaded = (end - begin).seconds();
  std::printf(
      "prefill, %u decoding:   %8.1f tokens/s (%.0f %%), gaps p50 %.1f p99 %.1f max %.1f ms\n",
      kRunning, kLongPrompt / loaded, 100 * alone / loaded, gaps[gaps.size() / 2], p99,
      gaps.back());
  EXPECT_LT(p99, options_.itl_ms_max);
  EXPECT_GE(alone / loaded, 0.5);
}

}  // namespace
}  // namespace octet
