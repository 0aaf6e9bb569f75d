#include "rpc/channel.h"

#include <google/protobuf/stubs/logging.h>
#include <grpcpp/ext/channelz_service_plugin.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>

#include <chrono>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/log.h"
#include "core/status_macros.h"

namespace octet {
namespace {

int Millis(Duration d) { return static_cast<int>(d.ns / 1'000'000); }

absl::Status AddressError(const std::string& text, const char* why) {
  return absl::InvalidArgumentError(absl::StrCat(
      "address \"", text, "\": ", why, "; allowed is host:port or [v6]:port, port 0 to 65535"));
}

std::string JoinHostPort(const HostPort& parts) {
  const bool v6 = parts.host.find(':') != std::string::npos;
  return v6 ? absl::StrCat("[", parts.host, "]:", parts.port)
            : absl::StrCat(parts.host, ":", parts.port);
}

}  // namespace

absl::StatusOr<HostPort> ParseHostPort(const std::string& text) {
  if (text.size() > kAddressBytesMax) return AddressError(text.substr(0, 64), "too long");
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) return AddressError(text, "no port");
  std::string host = text.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find_first_of(":[]/") != std::string::npos) {
    return AddressError(text, "malformed host");
  }
  if (host.empty()) return AddressError(text, "no host");
  const std::string digits = text.substr(colon + 1);
  uint32_t port = 0;
  if (digits.find_first_not_of("0123456789") != std::string::npos ||
      !absl::SimpleAtoi(digits, &port) || port > 65535) {
    return AddressError(text, "malformed port");
  }
  return HostPort{host, static_cast<uint16_t>(port)};
}

void RouteGrpcLogs() {
  gpr_set_log_function([](gpr_log_func_args* line) {
    LogDebug("grpc: ", line->message, " (", line->file, ":", line->line, ")");
  });
  // Every message that a client gets wrong would otherwise be a line on standard error.
  google::protobuf::SetLogHandler(
      [](google::protobuf::LogLevel, const char* file, int line, const std::string& message) {
        LogDebug("protobuf: ", message, " (", file, ":", line, ")");
      });
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> CreateChannel(const std::string& address,
                                                             const ChannelOptions& options) {
  OCTET_ASSIGN_OR_RETURN(const HostPort parts, ParseHostPort(address));
  if (parts.port == 0) return AddressError(address, "port 0 can't be connected to");
  grpc::ChannelArguments args;
  args.SetMaxReceiveMessageSize(static_cast<int>(options.message_bytes_max));
  args.SetMaxSendMessageSize(static_cast<int>(options.message_bytes_max));
  args.SetInt(GRPC_ARG_MAX_METADATA_SIZE, kGrpcMetadataBytesMax);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, Millis(options.keepalive_time));
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Millis(options.keepalive_timeout));
  args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, Millis(options.reconnect_min));
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, Millis(options.reconnect_max));
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, Millis(options.reconnect_max));
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, options.own_connection ? 1 : 0);
  // Members reach each other directly, whatever proxy the environment names.
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  args.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  return grpc::CreateCustomChannel(JoinHostPort(parts), grpc::InsecureChannelCredentials(), args);
}

bool RefusesConnections(const std::string& address, Duration timeout) {
  const auto channel = CreateChannel(address);
  if (!channel.ok()) return true;
  const auto deadline =
      std::chrono::system_clock::now() + std::chrono::milliseconds(Millis(timeout));
  grpc_connectivity_state state = (*channel)->GetState(/*try_to_connect=*/true);
  while (state != GRPC_CHANNEL_READY && state != GRPC_CHANNEL_TRANSIENT_FAILURE) {
    if (!(*channel)->WaitForStateChange(state, deadline)) return false;
    state = (*channel)->GetState(/*try_to_connect=*/true);
  }
  return state == GRPC_CHANNEL_TRANSIENT_FAILURE;
}

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(
    const std::string& listen, const std::vector<grpc::Service*>& services,
    const RpcServerOptions& options) {
  OCTET_ASSIGN_OR_RETURN(const HostPort parts, ParseHostPort(listen));
  grpc::EnableDefaultHealthCheckService(true);
  if (options.reflection) {
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::channelz::experimental::InitChannelzService();
  }
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.message_bytes_max));
  builder.SetMaxSendMessageSize(static_cast<int>(options.send_bytes_max));
  builder.SetResourceQuota(grpc::ResourceQuota("octet").Resize(options.memory_bytes_max));
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, static_cast<int>(kGrpcMetadataBytesMax));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                             static_cast<int>(options.concurrent_streams_max));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Millis(options.keepalive_time));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Millis(options.keepalive_timeout));
  // Finds clients that are gone without a word also while there is nothing to send them: their
  // requests wait in a queue, or they have none.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Clients ping at the rate of ChannelOptions; a stricter server would drop them.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1'000);
  // Without this a second server on the same port silently takes half of the connections.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  int bound = 0;
  builder.AddListeningPort(JoinHostPort(parts), grpc::InsecureServerCredentials(), &bound);
  for (grpc::Service* service : services) builder.RegisterService(service);
  auto server = std::unique_ptr<RpcServer>(new RpcServer);
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr || bound == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", listen,
                     ": the port is in use or the address is not one of this machine"));
  }
  server->port_ = static_cast<uint16_t>(bound);
  server->address_ = JoinHostPort({parts.host, server->port_});
  server->server_->GetHealthCheckService()->SetServingStatus(false);
  server->SetServing(kLivenessService, true);
  return server;
}

RpcServer::~RpcServer() { Shutdown(Duration{}); }

void RpcServer::SetServing(const std::string& service, bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(service, serving);
}

void RpcServer::Shutdown(Duration grace) {
  if (server_ == nullptr) return;
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(Millis(grace)));
  server_->Wait();
}

}  // namespace octet
