"""From a .tflite file to C99 that runs on a microcontroller, and the proof that it gives TFLite Micro's integers."""
