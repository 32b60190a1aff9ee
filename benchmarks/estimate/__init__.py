# SPDX-License-Identifier: Apache-2.0
"""A file and a device class go in, milliseconds come out: measured here, estimated elsewhere."""
