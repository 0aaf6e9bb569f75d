// Rows of a dispatch and of its reply as bytes of the expert wire (docs/wire.md). Little-endian
// machines only.
#ifndef OCTET_TRANSPORT_GRPC_DISPATCH_MESSAGE_H_
#define OCTET_TRANSPORT_GRPC_DISPATCH_MESSAGE_H_

#include <cstddef>
#include <memory>

#include "octet/v1/expert.pb.h"
#include "transport/expert_link.h"

namespace octet {

// Gathers the share's rows, and seals. `message` may hold an earlier dispatch, whose memory is used
// again.
void EncodeDispatch(const ExpertDispatch& dispatch, octet::v1::Dispatch* message);

// `rows` f32 reply rows into `message` with their checksum, rounded to the reply's type. Not
// sealed.
void EncodeReplyRows(const float* rows, size_t count, const WireFormat& format,
                     octet::v1::DispatchReply* message);

// Of a message whose seal fits: validates and widens; reply->status says what was wrong. `pool` may
// be null.
void DecodeReply(const octet::v1::DispatchReply& message, const WireFormat& format, size_t rows,
                 ReplyPool* pool, ExpertReply* reply);

}  // namespace octet

#endif  // OCTET_TRANSPORT_GRPC_DISPATCH_MESSAGE_H_
