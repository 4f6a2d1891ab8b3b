// The cases of sweep_check.cu.
#pragma once

//  name, batch, length, heads, qk, v, sigmoid, normalize, states, fused, reset, ragged
static const Shape small_cases[] = {
    {"a 64/128 exp", 1, 192, 2, 64, 128, false, true, false, false, 0, false},
    {"b 128/256 exp", 1, 192, 2, 128, 256, false, true, false, false, 0, false},
    {"b 128/256 sig", 1, 256, 1, 128, 256, true, false, false, false, 0, false},
    {"a 64/128 sig", 2, 128, 1, 64, 128, true, false, false, true, 0, false},
    {"a 64/128 tail 1", 1, 1, 2, 64, 128, false, true, true, false, 0, false},
    {"a 64/128 tail 63", 1, 63, 1, 64, 128, false, true, false, false, 0, false},
    {"a 64/128 tail 65", 1, 65, 1, 64, 128, true, true, true, true, 0, false},
    {"a 64/128 tail 200", 2, 200, 3, 64, 128, false, true, true, false, 1, false},
    {"a 64/128 ragged", 3, 200, 2, 64, 128, false, true, true, false, 1, true},
    {"a 64/128 empty row", 2, 64, 1, 64, 128, false, true, true, false, 0, true},
    {"b 128/256 tail 200", 1, 200, 2, 128, 256, false, true, true, true, 1, false},
    {"b 128/256 ragged sig", 2, 330, 1, 128, 256, true, false, true, false, 2, true},
    {"c 96/192 exp", 1, 200, 2, 96, 192, false, true, true, false, 1, false},
    {"c 96/192 sig fused", 2, 130, 2, 96, 192, true, false, false, true, 0, true},
    {"d 256/512 exp", 1, 200, 1, 256, 512, false, true, true, false, 1, false},
    {"d 256/512 ragged", 2, 70, 1, 256, 512, false, true, true, false, 1, true},
    {"d 256/512 sig", 1, 130, 1, 256, 512, true, false, false, true, 0, true},
    {"e 128/128 exp", 1, 130, 1, 128, 128, false, true, true, false, 1, false},
    {"e 256/256 exp", 1, 130, 1, 256, 256, false, true, true, false, 1, false},
    {"e 64/512 exp", 1, 130, 1, 64, 512, false, true, true, false, 1, false},
    {"e 256/128 sig", 1, 130, 1, 256, 128, true, false, true, false, 1, false},
    {"b 128/256 tail 1", 1, 1, 1, 128, 256, true, false, true, false, 0, false},
    {"g 64/128 whole exp", 2, 320, 11, 64, 128, false, true, true, false, 0, false},
    {"g 64/128 whole sig", 2, 320, 11, 64, 128, true, true, true, false, 0, false},
    {"g 64/128 whole plain", 3, 640, 4, 64, 128, true, false, true, false, 0, false},
    {"g 64/128 whole steep", 1, 320, 3, 64, 128, false, true, false, false, 0, false, true},
    {"g 64/128 steep sig", 1, 320, 3, 64, 128, true, false, false, false, 0, false, true},
    {"b 128/256 whole exp", 1, 640, 2, 128, 256, false, true, true, false, 0, false},
    {"b 128/256 whole sig", 1, 640, 2, 128, 256, true, false, true, false, 0, false},
    {"d 256/512 whole exp", 1, 640, 1, 256, 512, false, true, true, false, 0, false},
    {"d 256/512 whole sig", 1, 640, 1, 256, 512, true, false, true, false, 0, false},
    {"d 256/512 steep exp", 1, 320, 1, 256, 512, false, true, false, false, 0, false, true},
    {"f 64/128 steep", 1, 330, 3, 64, 128, false, true, false, false, 0, false, true},
    {"f 128/256 steep sig", 1, 200, 9, 128, 256, true, false, false, false, 0, false, true},
};

static const Shape timed_cases[] = {
    {"T 16x128/256 sig", 8, 8192, 16, 128, 256, true, false, false, false, 0, false},
    {"T 16x128/256 exp", 8, 8192, 16, 128, 256, false, true, false, false, 0, false},
    {"T 32x64/128 exp", 8, 8192, 32, 64, 128, false, true, false, false, 0, false},
    {"T 8x256/512 sig", 8, 8192, 8, 256, 512, true, false, false, false, 0, false},
    {"T 8x256/512 exp", 8, 8192, 8, 256, 512, false, true, false, false, 0, false},
};
