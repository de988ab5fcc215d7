"""What the fork server imports last, so that each process that is forked from it has it done."""

from tests.support.quick_hydra import remember_parsed_options

remember_parsed_options()
