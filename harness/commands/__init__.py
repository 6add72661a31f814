"""The commands: each parses nothing and computes nothing, but calls the stages and prints."""
