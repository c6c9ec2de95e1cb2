//! Reasons of the findings about settings. They are never renamed.

/// A setting of an older shape has a new place.
pub const SETTING_MOVED: &str = "SettingMoved";
/// A setting was written out, since what decides it is about to be lost.
pub const SETTING_DEFAULTED: &str = "SettingDefaulted";
/// A setting of an older shape was left out.
pub const SETTING_DROPPED: &str = "SettingDropped";
/// A setting is set under its old and its new name, differently.
pub const SETTING_CONFLICT: &str = "SettingConflict";
/// A setting is known and has no effect.
pub const IGNORED_SETTING: &str = "IgnoredSetting";
/// A setting that KubeSphere never had.
pub const UNKNOWN_SETTING: &str = "UnknownSetting";
/// Something is to be enabled that KubeSphere never had.
pub const UNKNOWN_COMPONENT: &str = "UnknownComponent";
/// A setting is not of its type.
pub const INVALID_SETTING: &str = "InvalidSetting";
/// `authentication.adminPassword` breaks the rule for passwords.
pub const ADMIN_PASSWORD: &str = "AdminPasswordRefused";
/// Several replicas of the API server would run without a common session store.
pub const REPLICAS_WITHOUT_REDIS: &str = "ReplicasWithoutRedis";
