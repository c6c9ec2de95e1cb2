//! Is a text the schedule of a CronJob? In the words of the parser that the server has.

/// Fields of a schedule: least and greatest number, and names for the numbers from the least on.
const FIELDS: [(u32, u32, &[&str]); 5] = [
    (0, 59, &[]),
    (0, 23, &[]),
    (1, 31, &[]),
    (
        1,
        12,
        &[
            "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ],
    ),
    (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

/// Why a text is no schedule.
pub(super) fn refusal(schedule: &str) -> Option<String> {
    if schedule.starts_with('@') {
        return match schedule {
            "@yearly" | "@annually" | "@monthly" | "@weekly" | "@daily" | "@midnight" | "@hourly" => None,
            other if other.starts_with("@every ") => None,
            other => Some(format!("Unrecognized descriptor: {other}")),
        };
    }
    let fields: Vec<_> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        let found = fields.len();
        return Some(format!("Expected exactly 5 fields, found {found}: {schedule}"));
    }
    fields
        .iter()
        .zip(FIELDS)
        .flat_map(|(field, bounds)| {
            field
                .split(',')
                .filter(|part| !part.is_empty())
                .map(move |part| (part, bounds))
        })
        .find_map(|(part, bounds)| refusal_of(part, bounds))
}

fn refusal_of(part: &str, (least, most, names): (u32, u32, &[&str])) -> Option<String> {
    let number = |text: &str| -> Result<u32, String> {
        let place = names.iter().position(|name| *name == text.to_lowercase());
        if let Some(place) = place.and_then(|place| u32::try_from(place).ok()) {
            return Ok(least + place);
        }
        text.parse().map_err(|_| {
            format!("Failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
        })
    };
    let range = |text: &str| -> Result<(u32, u32, bool), String> {
        if matches!(text, "*" | "?") {
            return Ok((least, most, false));
        }
        match text.split('-').collect::<Vec<_>>().as_slice() {
            [one] => Ok((number(one)?, number(one)?, true)),
            [from, to] => Ok((number(from)?, number(to)?, false)),
            _ => Err(format!("Too many hyphens: {part}")),
        }
    };
    let bounds = || -> Result<(u32, u32, u32), String> {
        match part.split('/').collect::<Vec<_>>().as_slice() {
            [whole] => range(whole).map(|(from, to, _)| (from, to, 1)),
            [whole, step] => {
                let (from, to, single) = range(whole)?;
                // One number with a step goes on to the end.
                Ok((from, if single { most } else { to }, number(step)?))
            }
            _ => Err(format!("Too many slashes: {part}")),
        }
    };
    match bounds() {
        Err(why) => Some(why),
        Ok((from, _, _)) if from < least => Some(format!(
            "Beginning of range ({from}) below minimum ({least}): {part}"
        )),
        Ok((_, to, _)) if to > most => Some(format!("End of range ({to}) above maximum ({most}): {part}")),
        Ok((from, to, _)) if from > to => Some(format!(
            "Beginning of range ({from}) beyond end of range ({to}): {part}"
        )),
        Ok((_, _, 0)) => Some(format!("Step of range should be a positive number: {part}")),
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: &str, expect: Option<&str>) {
        assert_eq!(refusal(schedule).as_deref(), expect, "{schedule}");
    }

    #[test]
    fn schedules() {
        check("*/5 0-23/2 1,15 jan-DEC MON", None);
        check("@daily", None);
        check("5/15 * ? * *", None);
        check("x", Some("Expected exactly 5 fields, found 1: x"));
        check("60 * * * *", Some("End of range (60) above maximum (59): 60"));
        check("* * 0 * *", Some("Beginning of range (0) below minimum (1): 0"));
        check(
            "*/0 * * * *",
            Some("Step of range should be a positive number: */0"),
        );
        check("@never", Some("Unrecognized descriptor: @never"));
    }
}
