//! KubeSphere's permission model: roles, templates, bindings, aggregation, migration, effective access.
