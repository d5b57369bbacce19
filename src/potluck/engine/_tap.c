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
    char entry[64]; /* the tensor to replace; empty: none */
    void (*tensor_set)(void *tensor, const void *data, size_t offset, size_t size);
    const void *entering;
    size_t entering_bytes;
};

/* The size of the structure, by which tap.py knows an older build. */
size_t potluck_tap_size(void) { return sizeof(struct tap); }

/* Asked: is this node's result wanted, or to be replaced? Not asked: the result is there. Replace it and go on, or copy
 * it and stop the graph. */
bool potluck_tap(void *tensor, bool ask, struct tap *tap) {
    const char *name = tap->get_name(tensor);
    bool enters = tap->entry[0] && strcmp(name, tap->entry) == 0;
    if (ask)
        return enters || (tap->name[0] && strcmp(name, tap->name) == 0);
    size_t size = tap->nbytes(tensor);
    if (enters) {
        tap->tensor_set(tensor, tap->entering, 0, size < tap->entering_bytes ? size : tap->entering_bytes);
        return true;
    }
    if (size <= tap->capacity) {
        tap->tensor_get(tensor, tap->buffer, 0, size);
        tap->got = size;
    }
    return false;
}
