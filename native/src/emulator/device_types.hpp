// Vector types of CUDA kernels, with CUDA's sizes and alignments.

#pragma once

// Copies spelled out element by element: the compiler's alignment check (faults.cpp) covers those,
// and not the copies it would generate by itself. `Type` is a struct that is moved by one
// instruction on the GPU.
#define XL_CHECKED_COPIES(Type, copy_each) \
  Type() = default; \
  Type(const Type& from) { copy_each } \
  Type& operator=(const Type& from) { \
    copy_each \
    return *this; \
  }

#define XL_VECTOR2(name, element, alignment) \
  struct alignas(alignment) name { \
    element x, y; \
    name(element x, element y) : x(x), y(y) {} \
    XL_CHECKED_COPIES(name, x = from.x; y = from.y;) \
  }; \
  static inline name make_##name(element x, element y) { return name(x, y); }

#define XL_VECTOR4(name, element, alignment) \
  struct alignas(alignment) name { \
    element x, y, z, w; \
    name(element x, element y, element z, element w) : x(x), y(y), z(z), w(w) {} \
    XL_CHECKED_COPIES(name, x = from.x; y = from.y; z = from.z; w = from.w;) \
  }; \
  static inline name make_##name(element x, element y, element z, element w) { \
    return name(x, y, z, w); \
  }

struct uint3 {
  unsigned x, y, z;
};

XL_VECTOR2(float2, float, 8)
XL_VECTOR2(int2, int, 8)
XL_VECTOR2(uint2, unsigned, 8)
XL_VECTOR2(ushort2, unsigned short, 4)
XL_VECTOR2(double2, double, 16)
XL_VECTOR2(longlong2, long long, 16)
XL_VECTOR2(ulonglong2, unsigned long long, 16)
XL_VECTOR4(float4, float, 16)
XL_VECTOR4(int4, int, 16)
XL_VECTOR4(uint4, unsigned, 16)
XL_VECTOR4(ushort4, unsigned short, 8)
XL_VECTOR4(uchar4, unsigned char, 4)

#undef XL_VECTOR2
#undef XL_VECTOR4
