// What Swift cannot import from liburing and the socket headers.
#pragma once
#include <features.h>
#include <liburing.h>
