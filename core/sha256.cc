#include "core/sha256.h"

#include <openssl/evp.h>

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "core/check.h"
#include "core/limits.h"

namespace octet {

struct Sha256Stream::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256Stream::Sha256Stream() : state_(std::make_unique<State>()) {
  OCTET_CHECK_EQ(EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr), 1);
}

Sha256Stream::~Sha256Stream() = default;

void Sha256Stream::Update(const void* data, size_t bytes) {
  OCTET_CHECK_EQ(EVP_DigestUpdate(state_->context, data, bytes), 1);
}

Digest Sha256Stream::Finish() {
  Digest digest;
  OCTET_CHECK_EQ(EVP_DigestFinal_ex(state_->context, digest.data(), nullptr), 1);
  return digest;
}

Digest Sha256Stream::FinishAndRestart() {
  const Digest digest = Finish();
  // Without a type the context keeps its own, which spares OpenSSL a lookup and an allocation.
  OCTET_CHECK_EQ(EVP_DigestInit_ex(state_->context, nullptr, nullptr), 1);
  return digest;
}

Digest Sha256(absl::string_view bytes) {
  Sha256Stream stream;
  stream.Update(bytes.data(), bytes.size());
  return stream.Finish();
}

std::string DigestHex(const Digest& digest) {
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

bool DigestFromHex(absl::string_view hex, Digest* digest) {
  if (hex.size() != 64) return false;
  for (char c : hex) {
    if (!absl::ascii_isxdigit(static_cast<unsigned char>(c))) return false;
  }
  const std::string bytes = absl::HexStringToBytes(hex);
  std::copy(bytes.begin(), bytes.end(), digest->begin());
  return true;
}

Digest TreeDigest(const std::array<uint8_t, 32>* leaves, size_t count) {
  Sha256Stream stream;
  for (size_t i = 0; i < count; ++i) stream.Update(leaves[i].data(), leaves[i].size());
  return stream.Finish();
}

Digest TreeSha256(const uint8_t* data, size_t bytes) {
  return *TreeSha256(data, bytes, [] { return true; });
}

std::optional<Digest> TreeSha256(const uint8_t* data, size_t bytes,
                                 absl::FunctionRef<bool()> after_leaf) {
  std::vector<Digest> leaves;
  for (size_t at = 0; at < bytes; at += kDigestLeafBytes) {
    const size_t n = std::min<size_t>(kDigestLeafBytes, bytes - at);
    leaves.push_back(Sha256(absl::string_view(reinterpret_cast<const char*>(data + at), n)));
    if (!after_leaf()) return std::nullopt;
  }
  return TreeDigest(leaves.data(), leaves.size());
}

}  // namespace octet
