// What slstm_check.cu runs: name, batch, length, heads, width, options.
#pragma once

static Shape with(Shape s, void (*change)(Shape&)) {
  change(s);
  return s;
}
static const Shape cases[] = {
    {"a 64", 4, 20, 1, 64},
    with({"b 64 all", 5, 19, 2, 64}, [](Shape& s) { s.states = s.reset = s.ragged = true; }),
    with({"c 32 all", 9, 12, 2, 32}, [](Shape& s) { s.states = s.reset = s.ragged = true; }),
    with({"d 96 states", 3, 11, 1, 96}, [](Shape& s) { s.states = true; }),
    with({"e 128 all", 5, 9, 1, 128}, [](Shape& s) { s.states = s.reset = s.ragged = true; }),
    {"f 192", 3, 10, 1, 192},
    with({"g 192 all", 6, 11, 2, 192}, [](Shape& s) { s.states = s.reset = s.ragged = true; }),
    with({"h 256 all", 5, 8, 1, 256}, [](Shape& s) { s.states = s.reset = s.ragged = true; }),
    {"i 64 one token", 1, 1, 3, 64},
    with({"j 192 one token", 2, 1, 1, 192}, [](Shape& s) { s.states = true; }),
    with({"k 64 clips", 4, 17, 2, 64},
         [](Shape& s) { s.clip = 0.3f, s.recurrent_clip = 0.2f, s.states = true; }),
    with({"l 64 cut", 4, 9, 2, 64}, [](Shape& s) { s.cut = s.states = true; }),
    with({"m 64 steep", 4, 33, 1, 64}, [](Shape& s) { s.steep = true; }),
    {"n 64 ranges", 4, 200, 1, 64},
    with({"o 256 steep", 2, 5, 1, 256}, [](Shape& s) { s.steep = s.states = true; }),
};
static const Shape timed[] = {
    {"T 12x64", 16, 1024, 12, 64},   {"T 4x192", 16, 1024, 4, 192},
    {"T 4x256", 16, 1024, 4, 256},   {"T 6x128", 16, 1024, 6, 128},
    {"T 8x96", 16, 1024, 8, 96},     {"T 24x32", 16, 1024, 24, 32},
    {"T 12x64 one", 1, 1024, 12, 64}, {"T 12x64 wide", 64, 1024, 12, 64},
    {"T 4x192 one", 1, 1024, 4, 192}, {"T 4x192 wide", 64, 1024, 4, 192},
    {"T 4x256 long", 32, 2048, 4, 256},
};
