/* The evaluation callback of tap.py in C: llama.cpp's scheduler calls it for every graph node.
 * Plain C without Python's headers; tap.py loads it with ctypes. Optional: tap.py has the same in Python. */
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct tap {
    char name[64]; /* the tensor wanted; empty: none */
    const char *(*get_name)(const void *tensor);
    size_t (*nbytes)(const void *tensor);
    void (*tensor_get)(const void *tensor, void *data, size_t offset, size_t size);
    void *buffer;
    size_t capacity, got; /* in bytes */
};

/* Asked: is this node's result wanted? Not asked: the result is there; copy it and stop the graph. */
bool potluck_tap(void *tensor, bool ask, struct tap *tap) {
    if (ask)
        return tap->name[0] && strcmp(tap->get_name(tensor), tap->name) == 0;
    size_t size = tap->nbytes(tensor);
    if (size <= tap->capacity) {
        tap->tensor_get(tensor, tap->buffer, 0, size);
        tap->got = size;
    }
    return false;
}
