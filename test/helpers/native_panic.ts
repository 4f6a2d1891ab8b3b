// A child process of border.test.ts: a bug of the native library, asked for.

import { native } from "../../lib/native/library.ts";

native().xl_panic();
