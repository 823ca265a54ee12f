/* Stands in for libggml-sycl.so, so that the `ollama` of the PyPI package bigdl-core-cpp runs on a CPU
 * without a GPU runtime: no device, no buffers, no backend. setup.sh compiles it:
 *   gcc -shared -fPIC -O1 -Wl,-soname,libggml-sycl.so -o libggml-sycl.so ggml_sycl_stub.c */
#include <stddef.h>

int ggml_backend_sycl_get_device_count(void) { return 0; }

void *ggml_backend_sycl_buffer_type(int device)
{
    (void)device;
    return NULL;
}

void *ggml_backend_sycl_init(int device)
{
    (void)device;
    return NULL;
}

void *ggml_backend_sycl_reg(void) { return NULL; }
