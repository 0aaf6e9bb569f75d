// Where a command's answers come from: a router (--server) or a model in this process (--model).
#ifndef OCTET_CLI_BACKEND_H_
#define OCTET_CLI_BACKEND_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/settings.h"
#include "client/client.h"
#include "octet/v1/inference.pb.h"

namespace octet {

// Thread-safe; calls block their thread.
class Backend {
 public:
  virtual ~Backend() = default;
  // As Client::Generate.
  virtual absl::Status Generate(const octet::v1::GenerateRequest& request,
                                const Client::EventFn& on_event, const CancelToken& cancel) = 0;
  virtual absl::StatusOr<octet::v1::TokenizeResponse> Tokenize(
      const octet::v1::TokenizeRequest& request) = 0;
  virtual absl::StatusOr<octet::v1::DetokenizeResponse> Detokenize(
      const octet::v1::DetokenizeRequest& request) = 0;
  virtual absl::StatusOr<octet::v1::GetModelResponse> GetModel() = 0;
};

// In this process where `model` is set on the command line or nothing names a server, else a
// client of `server`. The settings are those of ModelSettings, PackSettings, ComputeSettings,
// EngineSettings and, but for eval, ClientSettings. Shows progress while it loads.
absl::StatusOr<std::unique_ptr<Backend>> OpenBackend(const Settings& settings);

}  // namespace octet

#endif  // OCTET_CLI_BACKEND_H_
