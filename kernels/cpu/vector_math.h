// exp with one arithmetic for every lane, so that a value's result does not depend on where in a vector it
// stood.
#pragma once

namespace penstock::cpu {

/// exp(x) to about 1 ulp: x = n ln 2 + r with |r| <= ln 2 / 2 (Cody and Waite 1980), then the Taylor
/// polynomial of degree 7. exp(0) is exactly 1, exp(x) is exactly 0 below -87 (so that no subnormals appear),
/// above 88.7 it stays at the largest value; NaN stays NaN.
template <class V>
typename V::F exp(typename V::F x) {
  using F = typename V::F;
  const F top = V::min(V::set(88.7F), x);
  const F n = V::round(V::mul(top, V::set(1.44269504F)));
  F r = V::fma(n, V::set(-0.693359375F), top);
  r = V::fma(n, V::set(2.12194440e-4F), r);
  F p = V::set(1.98412698e-4F);
  p = V::fma(p, r, V::set(1.38888889e-3F));
  p = V::fma(p, r, V::set(8.33333333e-3F));
  p = V::fma(p, r, V::set(4.16666667e-2F));
  p = V::fma(p, r, V::set(1.66666667e-1F));
  p = V::fma(p, r, V::set(0.5F));
  p = V::fma(p, r, V::set(1.0F));
  p = V::fma(p, r, V::set(1.0F));
  return V::zero_if_below(V::times_power_of_two(p, n), x, V::set(-87.0F));
}

}  // namespace penstock::cpu
