// Client channels and servers with every limit set explicitly. Credentials are insecure: the
// defaults bind loopback, and an encrypted network is what carries Octet between hosts.
#ifndef OCTET_RPC_CHANNEL_H_
#define OCTET_RPC_CHANNEL_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/clock.h"
#include "core/limits.h"

namespace octet {

// "host:port", "[v6]:port"; the port is 0..65535.
struct HostPort {
  std::string host;
  uint16_t port = 0;
};
// INVALID_ARGUMENT naming the text and what is allowed.
absl::StatusOr<HostPort> ParseHostPort(const std::string& text);

// Sends what gRPC and protobuf themselves log to our own log at debug level, instead of raw lines
// on standard error. Call once, from main, before the first channel or server.
void RouteGrpcLogs();

struct ChannelOptions {
  // Cap of one message in each direction, bytes.
  uint32_t message_bytes_max = kGrpcControlMessageBytesMax;
  // A ping after so long without traffic while a call is open; no answer in the timeout closes
  // the connection.
  Duration keepalive_time = Duration::Millis(10'000);
  Duration keepalive_timeout = Duration::Millis(5'000);
  // Bounds of the wait between two attempts to connect.
  Duration reconnect_min = Duration::Millis(50);
  Duration reconnect_max = Duration::Millis(1'000);
  // A TCP connection of its own instead of one shared by all channels to the address.
  bool own_connection = true;
};

// Connects lazily; fails only for a malformed address.
absl::StatusOr<std::shared_ptr<grpc::Channel>> CreateChannel(const std::string& address,
                                                             const ChannelOptions& options = {});

// True where a connection to `address` is refused or the address is malformed; false where one is
// made, or neither happens within `timeout`. Blocks.
bool RefusesConnections(const std::string& address, Duration timeout);

// A name of the standard health service that is SERVING for as long as the process answers at all,
// whatever the services say: what a liveness probe asks for.
inline constexpr char kLivenessService[] = "liveness";

struct RpcServerOptions {
  uint32_t message_bytes_max = kGrpcControlMessageBytesMax;
  // Of what it sends; replies can be larger than requests.
  uint32_t send_bytes_max = kGrpcControlMessageBytesMax;
  uint32_t concurrent_streams_max = kGrpcConcurrentStreamsMax;  // per connection
  uint64_t memory_bytes_max = kGrpcServerMemoryBytesMax;        // of gRPC's own buffers
  Duration keepalive_time = Duration::Millis(10'000);
  Duration keepalive_timeout = Duration::Millis(5'000);
  bool reflection = true;  // also channelz
};

// A running gRPC server: the given services plus the standard health service, reflection and
// channelz. Thread-safe.
class RpcServer {
 public:
  // `services` must outlive the server. UNAVAILABLE if the address is in use or can't be bound,
  // INVALID_ARGUMENT if it is malformed. The health of every service, and of the server as a
  // whole (""), starts as NOT_SERVING; that of kLivenessService is SERVING.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(
      const std::string& listen, const std::vector<grpc::Service*>& services,
      const RpcServerOptions& options = {});
  ~RpcServer();

  // The port bound, also where port 0 was asked for.
  uint16_t port() const { return port_; }
  // "host:port" with the port bound.
  const std::string& address() const { return address_; }
  // Sets the standard health status of `service` ("" is the server as a whole).
  void SetServing(const std::string& service, bool serving);
  // Refuses new calls, cancels those left after `grace` and waits until all reactions ended.
  // Idempotent. Blocks; never call it from a reaction.
  void Shutdown(Duration grace);

 private:
  RpcServer() = default;

  std::unique_ptr<grpc::Server> server_;
  uint16_t port_ = 0;
  std::string address_;
};

}  // namespace octet

#endif  // OCTET_RPC_CHANNEL_H_
