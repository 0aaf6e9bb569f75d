// A whole model in this process: router, engine and every expert, joined by the local transport.
// The arithmetic, and so every token, is the cluster's.
#ifndef OCTET_CLI_IN_PROCESS_H_
#define OCTET_CLI_IN_PROCESS_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/backend.h"
#include "core/clock.h"
#include "model/model_package.h"
#include "router/api/served_model.h"
#include "router/engine.h"
#include "transport/token_dispatcher.h"

namespace octet {

struct InProcessOptions {
  std::string model;
  ModelPackage::OpenOptions package;
  EngineOptions engine;
  bool gate_statistics = false;  // count what the gates choose
};

class InProcessModel final : public Backend {
 public:
  static absl::StatusOr<std::unique_ptr<InProcessModel>> Open(const InProcessOptions& options,
                                                              ProgressFn progress);
  ~InProcessModel() override;

  absl::Status Generate(const octet::v1::GenerateRequest& request, const Client::EventFn& on_event,
                        const CancelToken& cancel) override;
  absl::StatusOr<octet::v1::TokenizeResponse> Tokenize(
      const octet::v1::TokenizeRequest& request) override;
  absl::StatusOr<octet::v1::DetokenizeResponse> Detokenize(
      const octet::v1::DetokenizeRequest& request) override;
  absl::StatusOr<octet::v1::GetModelResponse> GetModel() override;
  GateStatistics* gate_statistics() override { return gate_statistics_.get(); }

  std::shared_ptr<const ServedModel> served() const { return served_; }
  Engine& engine() { return *engine_; }

 private:
  InProcessModel() = default;

  const SystemClock clock_{};
  std::shared_ptr<const ModelPackage> package_;
  std::shared_ptr<const ServedModel> served_;
  std::unique_ptr<GateStatistics> gate_statistics_;  // null where not counted
  std::unique_ptr<TokenDispatcher> dispatcher_;
  std::unique_ptr<Engine> engine_;  // ends first
};

}  // namespace octet

#endif  // OCTET_CLI_IN_PROCESS_H_
