# SPDX-License-Identifier: Apache-2.0
"""`devices.toml` goes in, device classes with limits and the sources of their numbers come out."""
