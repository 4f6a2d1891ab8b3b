// What common.cuh asks of an emulator, from hopper_host.hpp. (native/src/emulator is another one:
// it has no Hopper instructions.)
#pragma once
#include "hopper_host.hpp"
#define XL_CHECKED_COPIES(Type, copy_each)
