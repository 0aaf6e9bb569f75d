// Bounds of what a router keeps for a client that reads slowly or not at all.
#ifndef OCTET_CORE_CLIENT_LIMITS_H_
#define OCTET_CORE_CLIENT_LIMITS_H_

#include <cstddef>
#include <cstdint>

namespace octet {

// Of one stream's messages that were not handed to the connection yet; past that, or past
// kOutputBufferTokensMax tokens, the request is cancelled.
inline constexpr size_t kOutputBufferBytesMax = 4u << 20;
// From the end of a request until its client has read all of it; then the call is cancelled.
inline constexpr int64_t kOutputReadMsMax = 60'000;

}  // namespace octet

#endif  // OCTET_CORE_CLIENT_LIMITS_H_
