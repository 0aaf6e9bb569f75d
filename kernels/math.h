// exp, log, sin and cos of Octet: polynomials of our own, the same bits on every target
// (docs/numerics.md). Serving code calls these and never libm's.
#ifndef OCTET_KERNELS_MATH_H_
#define OCTET_KERNELS_MATH_H_

namespace octet {

// Within 2 ulp of e^x. -inf gives 0, results below the smallest normal are 0, overflow gives +inf,
// NaN stays NaN.
float ExpF(float x);
// Within 2 ulp of ln x for finite x > 0 (subnormals count as their value); 0 gives -inf, negative
// gives NaN.
float LogF(float x);
// In double, within 1e-15 absolute for |x| up to 2^21. Used at start, for the tables of rotary
// embeddings.
void SinCosD(double x, double* sin, double* cos);
double ExpD(double x);
double LogD(double x);

}  // namespace octet

#endif  // OCTET_KERNELS_MATH_H_
