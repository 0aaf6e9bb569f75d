// Where a command's answers come from: a router (--server) or a model in this process (--model).
// Without either: the router at the usual address if something listens there, else the embedded
// model.
#ifndef OCTET_CLI_BACKEND_H_
#define OCTET_CLI_BACKEND_H_

#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/settings.h"
#include "client/client.h"
#include "octet/v1/inference.pb.h"
#include "router/gate_statistics.h"

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
  // What the gates have chosen since the start. Null where that is not known: a server, a dense
  // model, or not asked for when the backend was opened.
  virtual GateStatistics* gate_statistics() { return nullptr; }
};

enum class BackendKind {
  kServer,    // `server`
  kModel,     // `model`, in this process
  kEmbedded,  // the embedded model, in this process
};
// The more explicit of `model` and `server` (flag, environment, file); on a tie the model, which
// needs no other process. `listens` says whether anything is at an address; it is asked for that of
// the default alone, where neither is set.
BackendKind ChooseBackend(const Settings& settings,
                          absl::FunctionRef<bool(const std::string& address)> listens);

// As ChooseBackend says. The settings are those of ModelSettings, PackSettings, ComputeSettings,
// EngineSettings and ClientSettings. Shows progress while it loads. With `gate_statistics`, a model
// in this process counts what its gates choose.
absl::StatusOr<std::unique_ptr<Backend>> OpenBackend(const Settings& settings,
                                                     bool gate_statistics = false);

}  // namespace octet

#endif  // OCTET_CLI_BACKEND_H_
