// liburing.h sets _XOPEN_SOURCE for itself, which hides types that other system headers then define a second
// time; with <features.h> first the feature macros are settled before it does.
#pragma once
#include <features.h>
#include <liburing.h>
