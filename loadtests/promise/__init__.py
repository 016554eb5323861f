"""Do the monitors keep their promise? False alarms where nothing changed, delays where something did, and others."""
