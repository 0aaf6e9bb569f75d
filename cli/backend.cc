#include "cli/backend.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/in_process.h"
#include "cli/model_settings.h"
#include "cli/terminal.h"
#include "core/status_macros.h"
#include "rpc/channel.h"

namespace octet {
namespace {

// Nothing on this machine takes so long to accept or refuse.
constexpr Duration kProbeTimeout = Duration::Millis(1000);

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

BackendKind ChooseBackend(const Settings& settings,
                          absl::FunctionRef<bool(const std::string& address)> listens) {
  const SettingSource server = settings.Source("server");
  if (settings.IsSet("model") && settings.Source("model") >= server) return BackendKind::kModel;
  if (server != SettingSource::kDefault) return BackendKind::kServer;
  return listens(settings.String("server")) ? BackendKind::kServer : BackendKind::kEmbedded;
}

absl::StatusOr<std::unique_ptr<Backend>> OpenBackend(const Settings& settings,
                                                     bool gate_statistics) {
  const BackendKind kind = ChooseBackend(settings, [](const std::string& address) {
    return !RefusesConnections(address, kProbeTimeout);
  });
  if (kind == BackendKind::kServer) {
    ClientOptions options;
    options.attempts_max = static_cast<uint32_t>(settings.Int("attempts"));
    options.timeout = Duration::Millis(settings.Int("timeout-ms"));
    OCTET_ASSIGN_OR_RETURN(auto client, Client::Connect(settings.String("server"), options));
    return std::unique_ptr<Backend>(new RemoteBackend(std::move(client)));
  }
  OCTET_ASSIGN_OR_RETURN(InProcessOptions options, InProcessOptionsFrom(settings));
  if (kind == BackendKind::kEmbedded) {
    PrintErr(absl::StrCat("octet: nothing listens on ", settings.String("server"),
                          ": using the embedded model ", options.model, "\n"));
  }
  options.gate_statistics = gate_statistics;
  ProgressBar bar;
  OCTET_ASSIGN_OR_RETURN(
      auto model,
      InProcessModel::Open(options, [&bar](absl::string_view phase, uint64_t done, uint64_t total) {
        bar.Update(phase, done, total);
      }));
  return std::unique_ptr<Backend>(std::move(model));
}

}  // namespace octet
