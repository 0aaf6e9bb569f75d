#include "cli/backend.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/in_process.h"
#include "cli/model_settings.h"
#include "cli/terminal.h"
#include "core/status_macros.h"

namespace octet {
namespace {

class RemoteBackend final : public Backend {
 public:
  explicit RemoteBackend(std::unique_ptr<Client> client) : client_(std::move(client)) {}

  absl::Status Generate(const octet::v1::GenerateRequest& request, const Client::EventFn& on_event,
                        const CancelToken& cancel) override {
    return client_->Generate(request, on_event, cancel);
  }
  absl::StatusOr<octet::v1::TokenizeResponse> Tokenize(
      const octet::v1::TokenizeRequest& request) override {
    return client_->Tokenize(request);
  }
  absl::StatusOr<octet::v1::DetokenizeResponse> Detokenize(
      const octet::v1::DetokenizeRequest& request) override {
    return client_->Detokenize(request);
  }
  absl::StatusOr<octet::v1::GetModelResponse> GetModel() override { return client_->GetModel(); }

 private:
  const std::unique_ptr<Client> client_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> OpenBackend(const Settings& settings) {
  const bool has_server = settings.Has("server");
  // The more explicit of the two wins; on a tie the model, which needs no other process.
  const bool in_process = settings.IsSet("model") &&
                          (!has_server || settings.Source("model") >= settings.Source("server"));
  if (!in_process && !has_server) {
    return absl::InvalidArgumentError(
        "model: not set; allowed is a Hugging Face directory, a GGUF "
        "file or a packed directory");
  }
  if (!in_process) {
    ClientOptions options;
    options.attempts_max = static_cast<uint32_t>(settings.Int("attempts"));
    options.timeout = Duration::Millis(settings.Int("timeout-ms"));
    OCTET_ASSIGN_OR_RETURN(auto client, Client::Connect(settings.String("server"), options));
    return std::unique_ptr<Backend>(new RemoteBackend(std::move(client)));
  }
  OCTET_ASSIGN_OR_RETURN(const InProcessOptions options, InProcessOptionsFrom(settings));
  ProgressBar bar;
  OCTET_ASSIGN_OR_RETURN(
      auto model,
      InProcessModel::Open(options, [&bar](absl::string_view phase, uint64_t done, uint64_t total) {
        bar.Update(phase, done, total);
      }));
  return std::unique_ptr<Backend>(std::move(model));
}

}  // namespace octet
