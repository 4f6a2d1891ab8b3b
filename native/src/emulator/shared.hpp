// Shared memory of blocks: spoiled before a block, checked after it.

#pragma once

#include <stddef.h>

namespace xl {

/// Dynamic shared memory of one worker, and the static shared memory of its OS thread.
class Shared {
 public:
  unsigned char* dynamic();
  void spoil(size_t dynamic_bytes, bool with_static);
  /// False when a block wrote past the end of what its launch asked for.
  bool intact(size_t dynamic_bytes);

 private:
  void find_static();
  unsigned char* static_start = nullptr;
  size_t static_bytes = 0;
  bool searched = false;
};

}  // namespace xl
