// Built with AVX-512 (F, BW, DQ, VL, VNNI), and with AMX for the one kernel that uses it (compilers
// use tiles only where they are asked to). Includes nothing whose inline functions another file
// could share.
#include "kernels/x86/vec16_avx512.h"
// The vector type comes first: the rest is written over it.
#include "kernels/x86/row_kernels.h"
//
#include "kernels/x86/attention_kernels.h"
#include "kernels/x86/float_kernels.h"
#include "kernels/x86/int_amx.h"
#include "kernels/x86/int_avx512.h"
#include "kernels/x86/w4x_avx512.h"

namespace octet {

const KernelTable& Avx512Kernels() {
  using avx512::Codes;
  using avx512::IntPanels;
  using avx512::Scales;
  static constexpr KernelTable kTable = {
      avx512::kSignedOffset,
      avx512::kNibbleBiasMask,
      {IntPanels<Codes::kNibbles, Scales::kF16, false>,
       IntPanels<Codes::kNibbles, Scales::kF16, true>,
       IntPanels<Codes::kNibbles, Scales::kF16Min, false>,
       IntPanels<Codes::kNibbles, Scales::kSuper, false>,
       IntPanels<Codes::kBytes, Scales::kF16, false>,
       IntPanels<Codes::kBytes, Scales::kF16Min, false>,
       IntPanels<Codes::kBytes, Scales::kSuper, false>,
       IntPanels<Codes::kBytes, Scales::kHalves, false>,
       IntPanels<Codes::kSigned, Scales::kF16, false>,
       IntPanels<Codes::kSigned, Scales::kF16, true>},
      avx512::PrepareRow,
      avx512::W4xPanels,
      avx512::W4xBias,
      avx512::ColumnDot,
      avx512::QuantizeRow,
      avx512::FloatPanels,
      avx512::Attention,
      avx512::RmsNorm,
      avx512::AddRow,
      avx512::SiluMul,
      avx512::Softmax,
      avx512::Rope,
      avx512::Combine,
      avx512::ToHalf,
      avx512::MaxOf,
      avx512::SumExp,
      avx512::ExpScaled,
  };
  return kTable;
}

const KernelTable& AmxKernels() {
  using avx512::AmxPanels;
  using avx512::Codes;
  using avx512::Scales;
  static const KernelTable kTable = [] {
    KernelTable table = Avx512Kernels();
    const auto set = [&table](IntKernel kernel, auto panels) {
      table.int_panels[static_cast<size_t>(kernel)] = panels;
    };
    set(IntKernel::kU4, AmxPanels<Codes::kNibbles, Scales::kF16, false>);
    set(IntKernel::kU4Wide, AmxPanels<Codes::kNibbles, Scales::kF16, true>);
    set(IntKernel::kU4Min, AmxPanels<Codes::kNibbles, Scales::kF16Min, false>);
    set(IntKernel::kU4Super, AmxPanels<Codes::kNibbles, Scales::kSuper, false>);
    set(IntKernel::kU5, AmxPanels<Codes::kBytes, Scales::kF16, false>);
    set(IntKernel::kU5Min, AmxPanels<Codes::kBytes, Scales::kF16Min, false>);
    set(IntKernel::kU5Super, AmxPanels<Codes::kBytes, Scales::kSuper, false>);
    set(IntKernel::kS8, AmxPanels<Codes::kSigned, Scales::kF16, false>);
    set(IntKernel::kS8Wide, AmxPanels<Codes::kSigned, Scales::kF16, true>);
    return table;
  }();
  return kTable;
}

}  // namespace octet
