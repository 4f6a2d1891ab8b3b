// Process-wide facts of the emulated driver, under its lock.

#pragma once

#include "driver.hpp"

namespace xl {

struct State {
  bool initialized = false;
  int retained = 0;    // users of the primary context
  int generation = 1;  // rises when the last user lets go: older contexts are no longer current
};
extern State state;

/// The last failure reported; empty and `success` when there is none.
const char* error();
int error_code();
void use_context(bool use);
bool has_context();

}  // namespace xl
