/* The main of a compiled executable. */
#include "fake_model.h"

typedef const cameo_operator *(*operators)(size_t *count);
int cameo_exe_main(int argc, char **argv, const struct cameo_model_desc *desc, operators linked);

int main(int argc, char **argv) {
    return cameo_exe_main(argc, argv, &fake_model, NULL);
}
