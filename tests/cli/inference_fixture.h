// octet.v1.Inference on a tiny model in this process, for tests.
#ifndef OCTET_TESTS_CLI_INFERENCE_FIXTURE_H_
#define OCTET_TESTS_CLI_INFERENCE_FIXTURE_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "cli/in_process.h"
#include "core/mutex.h"
#include "router/api/inference_service.h"
#include "rpc/channel.h"
#include "tests/integration/process.h"

namespace octet {

// Holds the engine's thread at the second token, a step after the request left the queue, until
// Release.
class BlockingSink final : public GenerationSink {
 public:
  void OnChunk(GenerationChunk chunk) override {
    MutexLock lock(mu_);
    if (chunk.index < 1) return;
    reached_ = true;
    changed_.NotifyAll();
    while (!released_) changed_.Wait(mu_);
  }
  void OnFinished(GenerationResult) override {}
  void OnError(absl::Status) override {}

  void WaitUntilReached() {
    MutexLock lock(mu_);
    while (!reached_) changed_.Wait(mu_);
  }
  void Release() {
    MutexLock lock(mu_);
    released_ = true;
    changed_.NotifyAll();
  }

 private:
  Mutex mu_;
  CondVar changed_;
  bool reached_ OCTET_GUARDED_BY(mu_) = false;
  bool released_ OCTET_GUARDED_BY(mu_) = false;
};

class InferenceFixture : public ::testing::Test {
 protected:
  void Serve(const EngineOptions& engine, const OutputLimits& limits = OutputLimits(),
             const RpcServerOptions& rpc = RpcServerOptions()) {
    InProcessOptions options;
    options.model = std::string(OCTET_SOURCE_DIR) + "/tests/golden/models/mixtral-f32";
    options.package.cache_directory = cache_.path();
    options.engine = engine;
    auto model = InProcessModel::Open(options, [](absl::string_view, uint64_t, uint64_t) {});
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    service_ =
        std::make_unique<InferenceService>(model_->served(), &model_->engine(), &clock_, limits);
    auto server = RpcServer::Start("127.0.0.1:0", {service_.get()}, rpc);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  void TearDown() override { server_->Shutdown(Duration{}); }

  // `max_tokens` for one of several prompts of three tokens, never ended by the model.
  static octet::v1::GenerateRequest Request(uint32_t prompt, uint32_t max_tokens) {
    octet::v1::GenerateRequest request;
    for (const int32_t id : {5, 17, 60}) {
      request.mutable_token_ids()->add_ids(id + static_cast<int32_t>(prompt));
    }
    request.mutable_sampling()->set_seed(prompt);
    request.mutable_stop()->set_max_tokens(max_tokens);
    request.mutable_stop()->set_ignore_eos(true);
    return request;
  }

  // Runs one request that stops the engine's thread until the sink is released.
  std::shared_ptr<BlockingSink> Block() {
    auto blocker = std::make_shared<BlockingSink>();
    GenerationRequest request;
    request.prompt = {4};
    request.stop.max_tokens = 2;
    request.stop.ignore_eos = true;
    EXPECT_TRUE(model_->engine().Submit(request, blocker).ok());
    blocker->WaitUntilReached();
    return blocker;
  }

  const TemporaryDirectory cache_;
  const SystemClock clock_{};
  std::unique_ptr<InProcessModel> model_;
  std::unique_ptr<InferenceService> service_;
  std::unique_ptr<RpcServer> server_;
};

}  // namespace octet

#endif  // OCTET_TESTS_CLI_INFERENCE_FIXTURE_H_
