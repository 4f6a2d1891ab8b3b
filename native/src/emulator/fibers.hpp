// The threads of one block as fibers on one OS thread.
//
// A worker runs one block at a time. Its memory is one aligned region: this record first, then one
// stack ("seat") per thread that is under way. Kernels find record and seat from the address of
// their own stack frame: no thread-local lookup, and nothing that could go stale in a register.
//
// A thread runs until it waits at a barrier or returns. Threads are started lazily, and a seat
// whose thread has returned takes the next one: a kernel without barriers runs all its threads one
// after the other on the first seat, and kernels that only meet within warps need 32 seats.
//
// Barriers know the file and line they were written at. Threads that meet at different lines, and
// blocks in which nobody can go on, are errors: a GPU would hang there, or mix values up.

#pragma once

#include <stddef.h>
#include <stdint.h>

#include "device_types.hpp"

namespace xl {

constexpr unsigned warp_lanes = 32;
constexpr unsigned max_threads = 1024;
constexpr unsigned max_warps = max_threads / warp_lanes;
constexpr size_t seat_bytes = size_t(64) << 10;
constexpr size_t region_bytes = size_t(128) << 20;  // a power of two: found by masking
constexpr unsigned first_seat = 2;                  // the record fills the places before it
constexpr unsigned seat_count = first_seat + max_threads;

/// Where a barrier was written.
struct Site {
  const char* operation;
  const char* file;
  int line;
};

struct Seat {
  uint3 thread;
  unsigned linear;
};

/// One warp; sets of lanes are bit masks. What an exchange leaves behind exists twice, by parity:
/// a lane may reach the next operation before its peers have read the result of this one, but
/// never the one after that.
struct Warp {
  unsigned live;  // lanes that have not returned, started or not
  unsigned ready;
  unsigned arrived;
  unsigned parity;
  unsigned present[2];
  unsigned votes[2];
  Site site;
  uint64_t values[2][warp_lanes];
};

struct Worker {
  uint3 block, block_size, grid_size;
  unsigned char* shared;
  const char* kernel;
  void (*function)(const void*);
  const void* arguments;

  unsigned threads, started, live, arrived;
  unsigned ready_warps;
  unsigned next_seat, free_count;
  bool failed;
  Site site;          // of the first thread that arrived at the block's barrier
  void* main_stack;   // of whoever runs the block
  void* discarded;
  Warp warps[max_warps];
  void* stacks[max_threads];  // by thread, while it waits
  Seat seats[seat_count];
  unsigned short free_seats[max_threads];
};
static_assert(sizeof(Worker) <= first_seat * seat_bytes - 4096, "the record meets a stack");
static_assert(seat_count * seat_bytes <= region_bytes, "the stacks leave the region");

inline Worker& worker() {
  const uintptr_t frame = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
  return *reinterpret_cast<Worker*>(frame & ~(region_bytes - 1));
}

inline Seat& seat() {
  const uintptr_t frame = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
  return worker().seats[(frame & (region_bytes - 1)) / seat_bytes];
}

/// What a lane finds once every live lane of its warp has arrived.
struct Meeting {
  const uint64_t* values;  // by lane
  unsigned present, votes, lane;
};

/// Wait for the warp, for the block. On fibers only.
Meeting meet(unsigned mask, uint64_t value, bool vote, Site site);
void meet_block(Site site);

/// A worker's region; null when address space is out. Workers live as long as the process.
Worker* create_worker();

/// Runs every thread of the block that the worker's first fields describe. False when the block
/// failed: the error is recorded.
bool run_block(Worker& worker);

/// Ends the running block, from a fiber or from a signal handler that interrupted one.
[[noreturn]] void abandon_block(Worker& worker);

/// Whether an address lies in this worker's region: is this stack pointer a fiber's?
bool owns(const Worker& worker, uintptr_t address);

}  // namespace xl
