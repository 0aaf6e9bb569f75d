// Scratch bytes on a 64-byte boundary, as the packing functions want them.
#ifndef OCTET_MODEL_ALIGNED_BUFFER_H_
#define OCTET_MODEL_ALIGNED_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <new>

namespace octet {

// Owns uninitialised memory; not copyable.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(size_t bytes)
      : data_(static_cast<uint8_t*>(::operator new (bytes, std::align_val_t{64}))) {}
  ~AlignedBuffer() { ::operator delete (data_, std::align_val_t{64}); }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;

  uint8_t* data() { return data_; }
  float* floats() { return reinterpret_cast<float*>(data_); }

 private:
  uint8_t* const data_;
};

}  // namespace octet

#endif  // OCTET_MODEL_ALIGNED_BUFFER_H_
