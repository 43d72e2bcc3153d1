/* com.acme::Frames, an operator that Cameo does not know: cuts a signal into frames that overlap.
 *
 *     frames[i, j], starts[i] = Frames(signal) {length, hop}
 *     frames[i, j] = signal[hop * i + j], starts[i] = hop * i
 *
 * `run.sh` builds it and runs a model with it; cameo.h says what the functions are given.
 */
#include <cameo.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

/* An attribute of the node, or what it is where the model leaves it out. */
static int64_t integer(const cameo_operator_call *call, const char *name, int64_t otherwise) {
    for (size_t i = 0; i < call->attribute_count; i++) {
        const cameo_attribute *attribute = &call->attributes[i];
        if (strcmp(attribute->name, name) == 0 && attribute->kind == CAMEO_ATTRIBUTE_INT)
            return *(const int64_t *)attribute->data;
    }
    return otherwise;
}

/* Called when the signal has a new length: how many frames there are. */
static int shape(void *user, const cameo_operator_call *call) {
    int64_t length = integer(call, "length", 256), hop = integer(call, "hop", length);
    int64_t samples = call->inputs[0].shape[0];
    (void)user;
    if (length < 1 || hop < 1) {
        snprintf(call->message, call->message_bytes, "length %lld and hop %lld must be positive", (long long)length,
                 (long long)hop);
        return 1;
    }
    int64_t count = samples < length ? 0 : (samples - length) / hop + 1;
    call->outputs[0].shape[0] = count;
    call->outputs[0].shape[1] = length;
    call->outputs[1].shape[0] = count;
    return 0;
}

/* Called in each run. */
static int compute(void *user, const cameo_operator_call *call) {
    const float *signal = (const float *)call->inputs[0].data;
    float *frames = (float *)call->outputs[0].data;
    int64_t *starts = (int64_t *)call->outputs[1].data;
    int64_t count = call->outputs[0].shape[0], length = call->outputs[0].shape[1];
    int64_t hop = integer(call, "hop", length);
    (void)user;
    for (int64_t i = 0; i < count; i++) {
        starts[i] = hop * i;
        for (int64_t j = 0; j < length; j++) {
            float sample = signal[hop * i + j];
            if (isnan(sample)) {
                snprintf(call->message, call->message_bytes, "sample %lld is no number", (long long)(hop * i + j));
                return 1;
            }
            frames[length * i + j] = sample;
        }
    }
    return 0;
}

static const cameo_operator operators[] = {CAMEO_OPERATOR("com.acme::Frames", shape, compute, NULL)};

/* What `./model --op-library` and `cameo compile --link` look for. In C++ it is `extern "C"`. */
const cameo_operator *cameo_operators(size_t *count);

const cameo_operator *cameo_operators(size_t *count) {
    *count = sizeof operators / sizeof *operators;
    return operators;
}
