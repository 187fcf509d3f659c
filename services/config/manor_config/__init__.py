"""The config service: what the system shall be, kept durably, in revisions.

documents  shapes rules relations references   one document: from a raw mapping to a typed, checked one
catalog  selectors  diff                       the present documents and questions about them
edits                                          what an Apply, Delete, Rollback or Rename writes
revision                                       transactions, guards, history
owners                                         what the owners of runs allow
engines/                                       where it is kept: SQLite, in a file or in memory
service  settings  uploads                     the shell
"""
